"""Every brick against its closed form: outputs, frozen Jacobian, and what of it may bend."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from bcos_vit.layers import (
    Attention,
    BcosConv2d,
    BcosLinear,
    Blur,
    GroupNorm,
    LayerNorm,
    Logits,
    Mlp,
    PoolHead,
    SixChannels,
    Standardised,
    StemStage,
    TokenHead,
    Tokens,
    build_stem,
)
from bcos_vit.layers.blur import Border, Kernel
from bcos_vit.layers.position import rotation
from laws import assert_close, assert_closed_form, assert_linear_when_frozen, assert_same_forward
from twins import (
    Twin,
    blur_twin,
    chain,
    conv_twin,
    group_norm_twin,
    layer_norm_twin,
    linear_twin,
    mean_twin,
    mixing_twin,
    patch_twin,
    plain_twin,
)

EXPONENTS = (1, 1.5, 2, 2.5)
MAX_OUTS = (1, 2, 3)


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def shaken(brick: nn.Module, dtype: torch.dtype) -> nn.Module:
    """In ``dtype``, with every one-dimensional parameter moved off its start at one or zero."""
    for parameter in brick.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=0.5)
    return brick.to(dtype)


def assert_laws(brick: nn.Module, x: Tensor, twin: Twin, rtol: float | None = None, unreached: tuple = ()) -> None:
    assert_closed_form(brick, x, twin, rtol)
    assert_same_forward(brick, x, rtol)
    assert_linear_when_frozen(brick, x, unreached)


# --- B-cos ---


@pytest.mark.parametrize("max_out", MAX_OUTS)
@pytest.mark.parametrize("b", EXPONENTS)
def test_linear(b: float, max_out: int, dtype: torch.dtype) -> None:
    layer = BcosLinear(6, 4, b=b, max_out=max_out).to(dtype)
    assert_laws(layer, torch.randn(2, 3, 6, dtype=dtype), linear_twin(layer.weight, b, max_out))


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 2, 5)], ids=str)
def test_linear_takes_any_leading_axes(shape: tuple[int, ...]) -> None:
    layer, x = BcosLinear(5, 3).double(), torch.randn(shape).double()
    y = layer(x)
    assert y.shape == (*shape[:-1], 3)
    assert_close(y, linear_twin(layer.weight, 2).formula(x))


GEOMETRIES = {
    "plain": ({"kernel_size": 3}, (5, 4)),
    "one-pixel": ({"kernel_size": 1}, (3, 2)),
    "stem-odd": ({"kernel_size": 3, "stride": 2, "padding": 1}, (7, 5)),
    "stem-even": ({"kernel_size": 3, "stride": 2, "padding": 1}, (6, 4)),
    "pixels-left-over": ({"kernel_size": 2, "stride": 3}, (7, 6)),
    "groups": ({"kernel_size": 2, "padding": 1, "groups": 2}, (4, 3)),
    "depthwise": ({"kernel_size": 2, "stride": 2, "groups": 4}, (5, 4)),
    "not-square": ({"kernel_size": (3, 2), "stride": (1, 2), "padding": (2, 0)}, (4, 6)),
    "not-square-groups": ({"kernel_size": (1, 3), "stride": (2, 1), "padding": (0, 1), "groups": 2}, (5, 4)),
}


def conv_laws(b: float, max_out: int, geometry: str, dtype: torch.dtype) -> None:
    options, size = GEOMETRIES[geometry]
    layer = BcosConv2d(4, 4, **options, b=b, max_out=max_out).to(dtype)
    stride, padding = (
        v if isinstance(v, tuple) else (v, v) for v in (options.get("stride", 1), options.get("padding", 0))
    )
    twin = conv_twin(layer.weight, b, max_out, stride, padding, options.get("groups", 1))
    assert_laws(layer, torch.randn(2, 4, *size, dtype=dtype), twin)


@pytest.mark.parametrize("max_out", MAX_OUTS)
@pytest.mark.parametrize("b", EXPONENTS)
def test_conv(b: float, max_out: int, dtype: torch.dtype) -> None:
    conv_laws(b, max_out, "not-square-groups", dtype)


@pytest.mark.parametrize("max_out", [1, 2])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_conv_geometry(geometry: str, max_out: int, dtype: torch.dtype) -> None:
    conv_laws(2, max_out, geometry, dtype)


# --- norms: an affine part may be added, and is no part of the matrix ---


@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
def test_layer_norm(bias: bool, dtype: torch.dtype) -> None:
    norm = shaken(LayerNorm(6, eps=1e-3, bias=bias), dtype)
    twin = layer_norm_twin(norm.weight, norm.bias, eps=1e-3)
    assert_laws(norm, torch.randn(2, 3, 6, dtype=dtype) + 2, twin, unreached=("bias",))


@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("groups", [1, 2])
def test_group_norm(groups: int, bias: bool, dtype: torch.dtype) -> None:
    norm = shaken(GroupNorm(4, groups=groups, eps=1e-3, bias=bias), dtype)
    twin = group_norm_twin(norm.weight, groups, norm.bias, eps=1e-3)
    assert_laws(norm, torch.randn(2, 4, 3, 2, dtype=dtype) + 2, twin, unreached=("bias",))


# --- attention and MLP ---

GRID = (2, 3)


class Turned(nn.Module):
    """Attention on a grid with rotary positions."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, rotation(*GRID, x.shape[-1] // self.attention.heads, like=x))


@pytest.mark.parametrize("position", ["none", "rope", "prior"])
@pytest.mark.parametrize("value", ["plain", "bcos"])
def test_attention(value: str, position: str, dtype: torch.dtype) -> None:
    tokens, width, heads = GRID[0] * GRID[1], 8, 2
    attention = Attention(
        width,
        heads,
        norm=LayerNorm(width),
        value=nn.Linear(width, width, bias=False) if value == "plain" else BcosLinear(width, width, b=1.5, max_out=2),
        project=BcosLinear(width, width),
        prior_tokens=tokens if position == "prior" else None,
    )
    nn.init.normal_(attention.query_key.weight)  # far from the flat attention of a fresh layer
    shaken(attention, dtype)
    w = attention.value.weight
    mixing = mixing_twin(
        attention.query_key.weight,
        heads,
        plain_twin(w) if value == "plain" else linear_twin(w, 1.5, 2),
        attention.prior,
        GRID if position == "rope" else None,
    )
    twin = chain(layer_norm_twin(attention.norm.weight), mixing, linear_twin(attention.project.weight, 2))
    prefix = "attention." if position == "rope" else ""
    brick = Turned(attention) if position == "rope" else attention
    x = torch.randn(2, tokens, width, dtype=dtype)
    assert_laws(brick, x, twin, unreached=(f"{prefix}query_key.weight", f"{prefix}prior"))


def test_mlp(dtype: torch.dtype) -> None:
    mlp = Mlp(
        norm=LayerNorm(4),
        expand=BcosLinear(4, 6, b=1.5),
        activation=nn.Identity(),
        contract=BcosLinear(6, 4, max_out=2),
    )
    shaken(mlp, dtype)
    twin = chain(
        layer_norm_twin(mlp.norm.weight), linear_twin(mlp.expand.weight, 1.5), linear_twin(mlp.contract.weight, 2, 2)
    )
    assert_laws(mlp, torch.randn(2, 3, 4, dtype=dtype), twin)


def test_conventional_activations_come_after_the_maps() -> None:
    class Step(nn.Module):
        """An affine map that does not commute with the others, nor with squaring."""

        def __init__(self, factor: float, shift: float) -> None:
            super().__init__()
            self.factor, self.shift = factor, shift

        def forward(self, x: Tensor) -> Tensor:
            return self.factor * x + self.shift

    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x

    x = torch.tensor([[[1.0]]])
    mlp = Mlp(norm=Step(2, 1), expand=Step(3, 1), activation=Square(), contract=Step(5, 1))
    assert float(mlp(x)) == 5 * (3 * (2 * 1 + 1) + 1) ** 2 + 1
    assert float(StemStage(Step(2, 1), Step(3, 1), Square())(x)) == (3 * (2 * 1 + 1) + 1) ** 2


# --- the two ends ---


def test_six_channels(dtype: torch.dtype) -> None:
    one = torch.eye(3 * 2 * 3).double()
    added = torch.tensor([0, 0, 0, 1, 1, 1]).double()[:, None, None]
    twin = Twin(lambda x: torch.cat((one, -one)), lambda x: torch.cat((x, 1 - x), 1), added)
    assert_laws(SixChannels(), torch.rand(2, 3, 2, 3, dtype=dtype), twin)


def test_standardised(dtype: torch.dtype) -> None:
    mean, std = (
        torch.tensor(v, dtype=torch.float64)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    twin = Twin(lambda x: torch.diag((1 / std).expand_as(x).flatten()), lambda x: (x - mean) / std, -mean / std)
    assert_laws(Standardised(), torch.rand(2, 3, 2, 3, dtype=dtype), twin)


def test_tokens(dtype: torch.dtype) -> None:
    tokens = Tokens([], 2, BcosLinear(2 * 2 * 3, 5)).to(dtype)
    twin = chain(patch_twin(2), linear_twin(tokens.project.weight, 2))
    assert_laws(tokens, torch.randn(2, 3, 4, 6, dtype=dtype), twin)


def test_tokens_with_stem(dtype: torch.dtype) -> None:
    def conv(channels: int, out: int, kernel: int, **geometry: int) -> BcosConv2d:
        return BcosConv2d(channels, out, kernel, **geometry, max_out=2)

    stem = build_stem(3, (4, 4), (2, 1), conv, GroupNorm, nn.Identity)
    tokens = shaken(Tokens(stem, 2, BcosLinear(2 * 2 * 4, 3)), dtype)
    first, second = tokens.stem
    twin = chain(
        conv_twin(first.conv.weight, 2, 2, stride=(2, 2), padding=(1, 1)),
        group_norm_twin(first.norm.weight),
        conv_twin(second.conv.weight, 2, 2, stride=(1, 1), padding=(1, 1)),
        group_norm_twin(second.norm.weight),
        patch_twin(2),
        linear_twin(tokens.project.weight, 2),
    )
    x = torch.randn(2, 3, 8, 4, dtype=dtype)
    assert tokens(x).shape == (2, 2, 1, 3)
    assert_laws(tokens, x, twin)


@pytest.mark.parametrize("border", get_args(Border))
@pytest.mark.parametrize("kernel", get_args(Kernel))
def test_blur(kernel: Kernel, border: Border, dtype: torch.dtype) -> None:
    for size in [(5, 4), (2, 3), *([] if border == "reflect" else [(1, 2), (1, 1)])]:
        assert_laws(Blur(kernel, border), torch.randn(2, 2, *size, dtype=dtype), blur_twin(kernel, border))


@pytest.mark.parametrize("border", get_args(Border))
@pytest.mark.parametrize("kernel", get_args(Kernel))
def test_tokens_with_a_blurred_stem(kernel: Kernel, border: Border, dtype: torch.dtype) -> None:
    stem = build_stem(3, (4, 4, 3), (1, 2, 2), BcosConv2d, GroupNorm, nn.Identity, lambda: Blur(kernel, border))
    tokens = shaken(Tokens(stem, 1, BcosLinear(3, 2)), dtype)
    steps = []
    for stage, stride in zip(tokens.stem, (1, 2, 2), strict=True):
        if stride == 2:
            steps.append(blur_twin(kernel, border))
        steps += [conv_twin(stage.conv.weight, 2, 1, (stride, stride), (1, 1)), group_norm_twin(stage.norm.weight)]
    x = torch.randn(2, 3, 8, 4, dtype=dtype)
    assert tokens(x).shape == (2, 2, 1, 2)
    assert_laws(tokens, x, chain(*steps, patch_twin(1), linear_twin(tokens.project.weight, 2)))


@pytest.mark.parametrize("head", [PoolHead, TokenHead])
def test_heads(head: type[PoolHead], dtype: torch.dtype) -> None:
    brick = shaken(head(LayerNorm(4), BcosLinear(4, 3)), dtype)
    steps = [layer_norm_twin(brick.norm.weight), linear_twin(brick.classify.weight, 2)]
    steps.insert(0 if head is PoolHead else 2, mean_twin())
    assert_laws(brick, torch.randn(2, 3, 4, dtype=dtype), chain(*steps))


def test_logits(dtype: torch.dtype) -> None:
    twin = Twin(lambda x: 0.25 * torch.eye(4).double(), lambda x: x / 4 - 1.75, -1.75)
    assert_laws(Logits(0.25, -1.75), torch.randn(3, 4, dtype=dtype), twin)
