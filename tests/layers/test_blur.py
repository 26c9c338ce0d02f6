"""What a blur before a stride is for: no trace of the stride's lattice; and that it lives wherever a stem does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx

from bcos_vit.layers import Blur, GroupNorm, StemStage, build_stem, frozen
from bcos_vit.layers.blur import Border, Kernel
from laws import assert_close
from toys import generator

EVERY = [Blur(kernel, border) for kernel in get_args(Kernel) for border in get_args(Border)]
every_blur = pytest.mark.parametrize("blur", EVERY, ids=lambda blur: f"{blur.kernel}-{blur.border}")


def alternating(height: int, width: int) -> dict[str, Tensor]:
    """The frequencies of the lattice of stride 2, (1, 1, height, width) each: by rows, by columns, and by both."""
    rows, columns = ((-1.0) ** torch.arange(size) for size in (height, width))
    waves = {"rows": rows[:, None].expand(height, width), "columns": columns.expand(height, width)}
    return {name: wave[None, None] for name, wave in (waves | {"both": rows[:, None] * columns}).items()}


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(0), dtype=torch.float64)


def pulled(function: Any, x: Tensor, g: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(function(x), x, g)[0]


# --- the lattice ---


@every_blur
def test_nothing_is_left_of_the_lattice_inside_forward_and_back(blur: Blur) -> None:
    for name, wave in alternating(8, 7).items():
        for found in (blur(3.7 * wave), pulled(blur, wave, 3.7 * wave)):
            assert not found[..., 2:-2, 2:-2].count_nonzero(), name


@every_blur
def test_an_even_image_stays_even_inside(blur: Blur) -> None:
    x = torch.full((1, 1, 6, 6), 0.3)
    for found in (blur(x), pulled(blur, x, x)):
        assert torch.equal(found[..., 2:-2, 2:-2], x[..., 2:-2, 2:-2])


@pytest.mark.parametrize(
    ("border", "forward", "back"),
    [("zero", [0.75, 1], [0.75, 1]), ("replicate", [1, 1], [1, 1]), ("reflect", [1, 1], [0.75, 1.25])],
)
def test_what_a_border_makes_of_an_even_image(border: Border, forward: list[float], back: list[float]) -> None:
    blur, x = Blur("binomial", border), torch.ones(1, 1, 6, 6)
    assert blur(x)[0, 0, 3, :2].tolist() == forward
    assert pulled(blur, x, x)[0, 0, 3, :2].tolist() == back


@every_blur
def test_the_map_of_a_strided_convolution_is_even_only_behind_a_blur(blur: Blur) -> None:
    conv = nn.Conv2d(1, 2, 3, stride=2, padding=1, bias=False).double()
    x = images(1, 1, 12, 12)
    g = images(1, 2, 1, 1).expand(1, 2, 6, 6)  # what comes back is the same everywhere
    found = pulled(StemStage(conv, nn.Identity(), nn.Identity(), blur), x, g)[..., 4:-4, 4:-4]
    assert_close(found, found.mean().expand(found.shape))
    strided = pulled(conv, x, g)[..., 4:-4, 4:-4]
    assert strided.std() > 0.1 * strided.abs().mean()


def test_a_box_lies_about_the_middle_of_what_a_strided_convolution_stands_for() -> None:
    stage = StemStage(nn.Conv2d(1, 1, 3, stride=2, padding=1, bias=False), nn.Identity(), nn.Identity(), Blur("box"))
    g = torch.zeros(1, 1, 4, 4)
    g[..., 1, 2] = 1
    seen = pulled(stage, torch.zeros(1, 1, 8, 8), g)[0, 0].nonzero()
    assert seen.amin(0).tolist() == [1, 3]  # pixels 1 to 4 and 3 to 6, about 2 and 3, 4 and 5
    assert seen.amax(0).tolist() == [4, 6]


# --- the stem ---


def test_a_blur_stands_before_every_stride_and_nowhere_else() -> None:
    stem = build_stem(3, (4, 5, 6), (2, 1, 2), lambda *a, **k: nn.Conv2d(*a, **k), GroupNorm, nn.GELU, Blur)
    assert [type(stage.blur) for stage in stem] == [Blur, nn.Identity, Blur]
    assert [stage.conv.stride for stage in stem] == [(2, 2), (1, 1), (2, 2)]
    without = build_stem(3, (4, 5, 6), (2, 1, 2), lambda *a, **k: nn.Conv2d(*a, **k), GroupNorm, nn.GELU)
    assert not any(isinstance(stage.blur, Blur) for stage in without)
    assert [*nn.Sequential(*stem).state_dict()] == [*nn.Sequential(*without).state_dict()]


def test_it_has_no_state() -> None:
    assert not Blur().state_dict()
    assert not list(Blur().parameters())


# --- gradients, transforms, the compiler ---


@every_blur
def test_derivatives_and_their_derivatives(blur: Blur) -> None:
    x = images(2, 2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(blur, x)
    assert torch.autograd.gradgradcheck(blur, x)


@every_blur
def test_vmap_of_images_and_of_gradients(blur: Blur) -> None:
    x, g = images(3, 2, 4, 5), images(6, 3, 2, 4, 5)
    assert torch.equal(vmap(lambda one: blur(one[None])[0])(x), blur(x))
    leaf = x.clone().requires_grad_()
    y = blur(leaf)
    (found,) = vmap(lambda one: torch.autograd.grad(y, leaf, one, retain_graph=True))(g)
    for one, several in zip(g, found, strict=True):
        assert torch.equal(several, pulled(blur, x, one))


@pytest.fixture
def _no_compiled_code() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("blur", [Blur("binomial", "zero"), Blur("box", "reflect")], ids=["binomial", "box"])
@pytest.mark.usefixtures("_no_compiled_code")
def test_compiles_whole(blur: Blur) -> None:
    x, g = images(2, 3, 6, 5), images(2, 3, 6, 5)
    compiled = torch.compile(blur, fullgraph=True, backend="aot_eager")
    assert_close(pulled(compiled, x, g), pulled(blur, x, g))
    with torch.no_grad(), frozen():
        assert_close(compiled(x), blur(x))


@every_blur
def test_it_is_traced_for_any_number_of_images_forward_and_back(blur: Blur) -> None:
    def both(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        return blur(x), pulled(blur, x, g)

    x, g = images(2, 3, 6, 5), images(2, 3, 6, 5)
    traced = make_fx(both, tracing_mode="symbolic")(x, g)
    program = torch.export.export(traced, (x, g), dynamic_shapes=({0: Dim("batch")},) * 2).module()
    for batch in (2, 1, 5):
        given = images(batch, 3, 6, 5), images(batch, 3, 6, 5) + 1
        for found, expected in zip(program(*given), both(*given), strict=True):
            assert torch.equal(found, expected)


# --- precision and memory format ---


@every_blur
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(blur: Blur, dtype: torch.dtype) -> None:
    x, g = images(2, 3, 6, 5), images(2, 3, 6, 5)
    found, back = blur(x.to(dtype)), pulled(blur, x.to(dtype), g.to(dtype))
    assert found.dtype == back.dtype == dtype
    assert_close(found, blur(x), 1e-2)
    assert_close(back, pulled(blur, x, g), 1e-2)
    with torch.autocast("cpu", dtype):
        assert torch.equal(blur(x.float()), blur(x.float()))
        assert blur(x.float()).dtype == torch.float32  # what follows casts it


def test_the_largest_numbers_do_not_overflow() -> None:
    x = torch.full((1, 1, 4, 4), 60_000.0).half()
    assert torch.equal(Blur("binomial", "replicate")(x), x)


@every_blur
def test_channels_last(blur: Blur) -> None:
    x = images(2, 3, 6, 5)
    found = blur(x.contiguous(memory_format=torch.channels_last))
    assert torch.equal(found, blur(x))
    assert found.is_contiguous(memory_format=torch.channels_last)


# --- what cannot be ---


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (4, 1)], ids=str)
@pytest.mark.parametrize("kernel", get_args(Kernel))
def test_one_pixel_has_no_neighbour_to_reflect(kernel: Kernel, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"needs at least 2 x 2 pixels, found {size[0]} x {size[1]}"):
        Blur(kernel, "reflect")(torch.ones(1, 1, *size))


@pytest.mark.parametrize(("name", "found"), [("kernel", "gauss"), ("kernel", None), ("border", "circular")])
def test_other_kernels_and_borders_are_refused(name: str, found: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be one of .*, found {found!r}"):
        Blur(**{name: found})
