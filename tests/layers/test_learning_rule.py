"""The closed-form gradient of the B-cos transform, and how it lives with torch's transforms, compiler and autocast."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from bcos_vit.layers import BcosConv2d, BcosLinear, frozen
from bcos_vit.layers.bcos import Convolution, Dense
from laws import assert_close, bcos_conv, bcos_linear, unit_rows

EXPONENTS = (1.25, 1.5, 2, 2.5, 3)
GEOMETRIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "stem": {"stride": (2, 2), "padding": (1, 1)},
    "groups": {"padding": (1, 1), "groups": 2},
    "not-square": {"stride": (1, 2), "padding": (2, 0), "groups": 2},
}
MODES = [pytest.param(contextlib.nullcontext, id="learning"), pytest.param(frozen, id="frozen")]
Mode = Callable[[], contextlib.AbstractContextManager[None]]


def identity(t: Tensor) -> Tensor:
    return t


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conv(b: float, max_out: int, geometry: str) -> BcosConv2d:
    return BcosConv2d(4, 4, (3, 2), **GEOMETRIES[geometry], b=b, max_out=max_out)


def calm_input(lines: Callable[[Tensor], Tensor], shape: tuple[int, ...], max_out: int) -> Tensor:
    """An input at which no ``w.x`` is near zero, and no two that compete are near each other: no kink in reach."""
    for seed in range(1000):
        x = torch.randn(shape, generator=generator(seed), dtype=torch.float64)
        candidates = lines(x).unflatten(-1, (-1, max_out)).sort(-1).values
        if candidates.abs().min() > 1e-3 and (max_out == 1 or candidates.diff(dim=-1).min() > 1e-3):
            return x
    raise AssertionError("no calm input found")


def conv_lines(layer: BcosConv2d, geometry: str) -> Callable[[Tensor], Tensor]:
    """w.x with the units last, which B = 1 computes."""
    w = layer.weight.detach()
    return lambda x: bcos_conv(x, w, 1, 1, **GEOMETRIES[geometry]).movedim(1, -1)


def assert_gradcheck(layer: nn.Module, x: Tensor, fast: bool) -> None:
    weight = layer.weight.detach().clone().requires_grad_()
    torch.autograd.gradcheck(
        lambda x, w: functional_call(layer, {"weight": w}, x),
        (x.requires_grad_(), weight),
        fast_mode=fast,
    )


@pytest.fixture(autouse=True)
def _no_compiled_code() -> Iterator[None]:
    yield
    torch._dynamo.reset()  # one test's compiled code is no other's business


# --- the gradient is right ---


@pytest.mark.parametrize("max_out", [1, 2, 3])
@pytest.mark.parametrize("b", EXPONENTS)
def test_linear_gradient_by_finite_differences(b: float, max_out: int) -> None:
    layer = BcosLinear(4, 3, b=b, max_out=max_out).double()
    x = calm_input(lambda x: bcos_linear(x, layer.weight.detach(), 1), (2, 2, 4), max_out)
    assert_gradcheck(layer, x, fast=False)


@pytest.mark.parametrize("max_out", [1, 2])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("b", [1.5, 2, 2.5])
def test_conv_gradient_by_finite_differences(b: float, geometry: str, max_out: int) -> None:
    layer = conv(b, max_out, geometry).double()
    assert_gradcheck(layer, calm_input(conv_lines(layer, geometry), (1, 4, 4, 3), max_out), fast=True)


def assert_gradients_of(layer: nn.Module, x: Tensor, plain: Callable[[Tensor, Tensor], Tensor], rtol: float) -> None:
    """Output and both gradients equal autograd's through the plain composition, in float64."""
    x = (10 * x).requires_grad_()  # the closed form leaves out the norm's 1e-12 where it would not show
    exact = [t.detach().double().requires_grad_() for t in (x, layer.weight)]
    y, expected = layer(x), plain(*exact)
    g = torch.randn(y.shape, generator=generator(1), dtype=y.dtype)
    assert_close(y, expected, rtol, "output")
    found = torch.autograd.grad(y, (x, layer.weight), g)
    for name, one, other in zip("xw", found, torch.autograd.grad(expected, exact, g.double()), strict=True):
        assert_close(one, other, rtol, f"gradient by {name}")


PRECISIONS = [pytest.param(torch.float64, 1e-12, id="float64"), pytest.param(torch.float32, 1e-5, id="float32")]


@pytest.mark.parametrize(("dtype", "rtol"), PRECISIONS)
@pytest.mark.parametrize("max_out", [1, 2, 3])
@pytest.mark.parametrize("b", [1, *EXPONENTS])
def test_linear_gradient_is_the_compositions(b: float, max_out: int, dtype: torch.dtype, rtol: float) -> None:
    layer = BcosLinear(6, 5, b=b, max_out=max_out).to(dtype)
    plain = partial(bcos_linear, b=b, max_out=max_out, hold=identity)
    x = calm_input(lambda x: bcos_linear(x, layer.weight.detach().double(), 1), (2, 3, 6), max_out)
    assert_gradients_of(layer, x.to(dtype), plain, rtol)


@pytest.mark.parametrize(("dtype", "rtol"), PRECISIONS)
@pytest.mark.parametrize("max_out", [1, 2])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("b", [1, 1.5, 2, 2.5])
def test_conv_gradient_is_the_compositions(
    b: float, geometry: str, max_out: int, dtype: torch.dtype, rtol: float
) -> None:
    layer = conv(b, max_out, geometry).to(dtype)
    plain = partial(bcos_conv, b=b, max_out=max_out, hold=identity, **GEOMETRIES[geometry])
    x = calm_input(conv_lines(layer.double(), geometry), (2, 4, 5, 4), max_out)
    assert_gradients_of(layer.to(dtype), x.to(dtype), plain, rtol)


@pytest.mark.parametrize(("dtype", "rtol"), PRECISIONS)
@pytest.mark.parametrize("b", EXPONENTS)
def test_zero_rows_have_the_gradient_of_the_limit(b: float, dtype: torch.dtype, rtol: float) -> None:
    # The composition has 0/0 here. At zero the transform is its stabilising term times a linear map.
    layer = BcosLinear(6, 5, b=b).to(dtype)
    x = torch.randn(3, 6, dtype=dtype)
    x[1] = 0
    x.requires_grad_()
    y = layer(x)
    g = torch.randn_like(y)
    dx, dw = torch.autograd.grad(y, (x, layer.weight), g)
    assert not y[1].count_nonzero()
    assert dw.isfinite().all()
    slope = 0 if b == 2 else 1e-6 ** (b - 1)
    assert_close(dx[1], slope * g[1] @ unit_rows(layer.weight.detach()), rtol)
    others = x.detach()[[0, 2]].requires_grad_()
    plain = bcos_linear(others, layer.weight, b, hold=identity)
    expected = torch.autograd.grad(plain, (others, layer.weight), g[[0, 2]])
    assert_close(dx[[0, 2]], expected[0], 10 * rtol)
    assert_close(dw, expected[1], 10 * rtol)


@pytest.mark.parametrize("max_out", [1, 2])
@pytest.mark.parametrize("b", EXPONENTS)
@pytest.mark.parametrize("make", [partial(BcosLinear, 6, 5), partial(BcosConv2d, 6, 5, 1)], ids=["linear", "conv"])
def test_an_input_of_zeros_has_finite_gradients(make: Callable[..., nn.Module], b: float, max_out: int) -> None:
    layer = make(b=b, max_out=max_out)
    x = torch.zeros((2, 6) if isinstance(layer, BcosLinear) else (2, 6, 2, 2), requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert not y.count_nonzero()
    assert x.grad.isfinite().all()
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("wanted", ["input", "weight"])
def test_one_gradient_at_a_time(wanted: str) -> None:
    layer, x = BcosConv2d(2, 3, 3, max_out=2).double(), torch.randn(1, 2, 4, 4).double()
    both = torch.autograd.grad(layer(x.requires_grad_()).sum(), (x, layer.weight))
    layer.requires_grad_(wanted == "weight")
    x = x.detach().requires_grad_(wanted == "input")
    (alone,) = torch.autograd.grad(layer(x).sum(), x if wanted == "input" else layer.weight)
    assert torch.equal(alone, both[wanted == "weight"])


class Blocked(torch.autograd.Function):
    """The identity forwards; backwards it says that there is no gradient."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        return t.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> None:
        return None


def test_no_gradient_from_above_is_no_gradient_below() -> None:
    layer, x = BcosLinear(4, 3), torch.randn(2, 4, requires_grad=True)
    (x.sum() + Blocked.apply(layer(x)).sum()).backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    assert layer.weight.grad is None


def assert_gradgradcheck(layer: nn.Module, x: Tensor) -> None:
    weight = layer.weight.detach().clone().requires_grad_()
    torch.autograd.gradgradcheck(lambda x, w: functional_call(layer, {"weight": w}, x), (x.requires_grad_(), weight))


@pytest.mark.parametrize("max_out", [1, 2])
@pytest.mark.parametrize("b", [1.5, 2, 2.5])
def test_the_second_derivative_is_right(b: float, max_out: int) -> None:
    layer = BcosLinear(4, 3, b=b, max_out=max_out).double()
    assert_gradgradcheck(layer, calm_input(lambda x: bcos_linear(x, layer.weight.detach(), 1), (2, 4), max_out))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_second_derivative_of_a_convolution_is_right(geometry: str) -> None:
    layer = conv(2, 1, geometry).double()
    assert_gradgradcheck(layer, calm_input(conv_lines(layer, geometry), (1, 4, 3, 3), 1))


@pytest.mark.parametrize("above", [Tensor.sum, lambda y: y.square().sum()], ids=["constant", "depends-on-y"])
def test_a_gradient_penalty_reaches_the_weights(above: Callable[[Tensor], Tensor]) -> None:
    layer, x = BcosLinear(4, 3).double(), torch.randn(2, 4).double().requires_grad_()

    def penalty(transform: Callable[[Tensor], Tensor]) -> Tensor:
        (dx,) = torch.autograd.grad(above(transform(x)), x, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), layer.weight)[0]

    assert_close(penalty(layer), penalty(lambda x: bcos_linear(x, layer.weight, 2, hold=identity)), 1e-10)


# --- what a B-cos layer is ---


def test_b_of_one_is_a_linear_map_with_unit_rows() -> None:
    layer = BcosLinear(4, 3, b=1).double()
    matrix = layer(torch.eye(4).double()).T
    assert_close(matrix.norm(dim=1), torch.ones(3))
    assert_close(matrix * layer.weight.norm(dim=1, keepdim=True), layer.weight)
    x, y = torch.randn(2, 5, 4).double()
    assert_close(layer(2 * x - 3 * y), 2 * layer(x) - 3 * layer(y))


def test_the_length_of_a_row_does_not_matter() -> None:
    layer, x = BcosLinear(4, 3, b=1.5).double(), torch.randn(5, 4).double()
    y = layer(x)
    layer.weight.data *= torch.tensor([[0.1], [1], [30]])
    assert_close(layer(x), y)


@pytest.mark.parametrize("a", [1e-3, 3, 1e4])
def test_homogeneous_of_degree_one(a: float) -> None:
    layer, x = BcosLinear(6, 4, max_out=2).double(), torch.randn(3, 6).double()
    assert_close(layer(a * x), a * layer(x), 1e-8)  # but for the 1e-12 in the norm


@pytest.mark.parametrize("mode", MODES)
def test_sums_prove_nothing(mode: Mode) -> None:
    # Euler: input x gradient of a homogeneous function sums to it, whether its dynamic weight was frozen or not.
    layer, x = BcosLinear(6, 4).double(), torch.randn(3, 6).double().requires_grad_()
    with mode():
        y = layer(x)
        (rows,) = torch.autograd.grad(y[:, 0].sum(), x)
    assert_close((x * rows).sum(1), y[:, 0], 1e-11)


# --- torch.func ---


def layers_and_inputs() -> list[Any]:
    def case(name: str, make: Callable[[], nn.Module], *shape: int) -> Any:
        return pytest.param(make, shape, id=name)

    return [
        case("linear", lambda: BcosLinear(6, 4, max_out=2), 3, 2, 6),
        case("linear-b", lambda: BcosLinear(6, 4, b=1.5), 3, 2, 6),
        case("conv", lambda: conv(2, 1, "not-square"), 3, 4, 4, 4),
        case("conv-b", lambda: conv(1.5, 2, "stem"), 3, 4, 4, 4),
    ]


CASES = pytest.mark.parametrize(("make", "shape"), layers_and_inputs())
BOTH_MODES = pytest.mark.parametrize("mode", MODES)


@BOTH_MODES
@CASES
def test_vmap_is_the_batched_call(make: Callable[[], nn.Module], shape: tuple[int, ...], mode: Mode) -> None:
    layer, x = make().double(), torch.randn(shape).double()
    with mode():
        assert_close(vmap(lambda sample: layer(sample[None])[0])(x), layer(x))


@BOTH_MODES
@CASES
def test_gradients_per_sample(make: Callable[[], nn.Module], shape: tuple[int, ...], mode: Mode) -> None:
    layer, x = make().double(), torch.randn(shape).double()

    def loss(weight: Tensor, sample: Tensor) -> Tensor:
        return functional_call(layer, {"weight": weight}, sample[None]).square().sum()

    with mode():
        found = vmap(grad(loss, argnums=(0, 1)), in_dims=(None, 0))(layer.weight.detach(), x)
        leaves = [(layer.weight, sample.clone().requires_grad_()) for sample in x]
        loop = [torch.autograd.grad(loss(*pair), pair) for pair in leaves]
    for one, other in zip(found, zip(*loop, strict=True), strict=True):
        assert_close(one, torch.stack(other))


# --- the compiler ---


def gradients(layer: Callable[[Tensor], Tensor], weight: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    x = x.detach().requires_grad_()
    y = layer(x)
    return y.detach(), *torch.autograd.grad(y.square().sum(), (x, weight))


def assert_compiles(layer: nn.Module, x: Tensor, backend: str, rtol: float) -> None:
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    expected = {}
    for mode in (contextlib.nullcontext, frozen) * 2:  # back and forth on one compiled object: the mode is guarded
        with mode():
            found, expected[mode] = (gradients(f, layer.weight, x) for f in (compiled, layer))
        for one, other in zip(found, expected[mode], strict=True):
            assert_close(one, other, rtol)
    learning, explaining = (dx for _, dx, _ in expected.values())
    assert (learning - explaining).abs().max() > 0.01 * learning.abs().max()  # else a missing guard would not show


@CASES
def test_compiles_whole_and_follows_the_mode(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    assert_compiles(make().double(), torch.randn(shape).double(), "aot_eager", 1e-12)


def test_compiles_to_machine_code() -> None:
    assert_compiles(BcosLinear(6, 4, max_out=2), torch.randn(3, 6), "inductor", 1e-5)


# --- autocast ---

BFLOAT16 = 2e-2  # of the largest entry: 8 bits, rounded at every step


@BOTH_MODES
@pytest.mark.parametrize("b", [1, 1.5, 2])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_autocast(kind: str, b: float, mode: Mode) -> None:
    layer = BcosLinear(6, 4, b=b) if kind == "linear" else conv(b, 1, "groups")  # rounding may change a MaxOut's winner
    x = torch.randn((3, 2, 6) if kind == "linear" else (3, 4, 4, 4), requires_grad=True)
    with mode():
        exact = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        g = torch.randn(y.shape)
        expected = torch.autograd.grad(exact, (x, layer.weight), g)
        found = torch.autograd.grad(y, (x, layer.weight), g.bfloat16())
    assert y.dtype == torch.bfloat16
    assert_close(y, exact, BFLOAT16)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert_close(one, other, BFLOAT16)


def test_autocast_leaves_float64_alone() -> None:
    layer, x = BcosLinear(6, 4).double(), torch.randn(3, 6).double()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.float64
    assert torch.equal(y, layer(x))


@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_norm_is_computed_in_float32(kind: str, autocast: bool) -> None:
    x = torch.randn(1, 300, 1, 1, generator=generator(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        n = Dense().norm(x.flatten()) if kind == "linear" else Convolution((1, 1), (0, 0), 1, (1, 1)).norm(x)
    assert n.dtype == torch.float32
    eps = 0 if kind == "linear" else 1e-6
    assert_close(n.flatten(), (x.double().square().sum() + eps).sqrt()[None], 1e-6)


def test_rows_are_normalised_in_float32() -> None:
    layer = BcosLinear(50, 20, b=1).bfloat16()
    rows = layer(torch.eye(50).bfloat16()).T
    assert torch.equal(rows, unit_rows(layer.weight.detach().double()).bfloat16())  # rounded once


@BOTH_MODES
@pytest.mark.parametrize("b", [1.5, 2])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_half_precision_does_not_overflow_in_the_norm(kind: str, b: float, mode: Mode) -> None:
    x = 7000 * torch.randn(3, 100, generator=generator(0)).sign()  # a norm of 70 000, where float16 ends at 65 504
    layer = BcosLinear(100, 4, b=b) if kind == "linear" else BcosConv2d(100, 4, 1, b=b)
    x = (x if kind == "linear" else x[:, :, None, None]).requires_grad_()
    with mode():
        exact = layer(x)
        with torch.autocast("cpu", torch.float16):
            y = layer(x)
        g = torch.full_like(exact, 100)  # as a loss scaler would
        (expected,) = torch.autograd.grad(exact, x, g)
        (found,) = torch.autograd.grad(y, x, g.half())
    assert y.dtype == torch.float16
    assert_close(y, exact, 5e-3)
    assert_close(found, expected, 5e-3)


# --- wrong use ---


@pytest.mark.parametrize("make", [partial(BcosLinear, 4, 6), partial(BcosConv2d, 4, 6, 3)], ids=["linear", "conv"])
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"b": 0.5}, "b must be .* at least 1, found 0.5"),
        ({"b": float("nan")}, "b must be .* found nan"),
        ({"b": float("inf")}, "b must be .* found inf"),
        ({"max_out": 0}, "max_out must be a whole number of at least 1, found 0"),
        ({"max_out": -2}, "max_out must be a whole number of at least 1, found -2"),
        ({"max_out": 1.5}, "max_out must be a whole number of at least 1, found 1.5"),
    ],
    ids=str,
)
def test_wrong_numbers_are_named(make: Callable[..., nn.Module], wrong: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make(**wrong)


def test_sizes_and_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="in_features must be a whole number of at least 1, found 0"):
        BcosLinear(0, 2)
    with pytest.raises(ValueError, match="kernel_size must be a whole number of at least 1, found 0"):
        BcosConv2d(3, 4, (3, 0))
    with pytest.raises(ValueError, match="groups must be a whole number of at least 1, found 0"):
        BcosConv2d(3, 4, 3, groups=0)
    with pytest.raises(ValueError, match=r"takes \(B, 1, H, W\), found \(1, 8, 8\)"):
        BcosConv2d(1, 4, 3)(torch.rand(1, 8, 8))


@pytest.mark.parametrize("groups", [3, 4])  # 3 does not divide the inputs, 4 not the outputs
def test_groups_must_divide_both_channel_numbers(groups: int) -> None:
    with pytest.raises(ValueError, match=f"groups={groups} must divide in_channels=4 and out_channels=6"):
        BcosConv2d(4, 6, 3, groups=groups)
