"""What a B-cos layer is, and the sentences for what none can be."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from bcos_vit.layers import BcosConv2d, BcosLinear
from laws import BOTH_MODES, Mode, assert_close

# --- what a B-cos layer is ---


def test_b_of_one_is_a_linear_map_with_unit_rows() -> None:
    layer = BcosLinear(4, 3, b=1).double()
    matrix = layer(torch.eye(4).double()).T
    assert_close(matrix.norm(dim=1), torch.ones(3))
    assert_close(matrix * layer.weight.norm(dim=1, keepdim=True), layer.weight)
    x, y = torch.randn(2, 5, 4).double()
    assert_close(layer(2 * x - 3 * y), 2 * layer(x) - 3 * layer(y))


KINDS = pytest.mark.parametrize("kind", ["linear", "conv"])
EXPONENTS = pytest.mark.parametrize("b", [1, 1.5, 2, 2.5])
MAX_OUTS = pytest.mark.parametrize("max_out", [1, 2])


def layer_and_input(kind: str, b: float, max_out: int, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    if kind == "linear":
        return BcosLinear(4, 3, b=b, max_out=max_out).to(dtype), torch.randn(5, 4, dtype=dtype)
    return BcosConv2d(4, 3, 2, b=b, max_out=max_out).to(dtype), torch.randn(2, 4, 3, 4, dtype=dtype)


def output_and_gradients(layer: nn.Module, x: Tensor, mode: Mode) -> tuple[Tensor, ...]:
    x = x.detach().requires_grad_()
    with mode():
        y = layer(x)
    g = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    return y.detach(), *torch.autograd.grad(y, (x, layer.weight), g)


@BOTH_MODES
@MAX_OUTS
@EXPONENTS
@KINDS
def test_the_length_of_a_row_does_not_matter(kind: str, b: float, max_out: int, mode: Mode) -> None:
    layer, x = layer_and_input(kind, b, max_out, torch.float64)
    y, dx, dw = output_and_gradients(layer, x, mode)
    lengths = torch.logspace(-3, 3, len(layer.weight)).view(-1, *[1] * (layer.weight.dim() - 1))
    layer.weight.data *= lengths
    found_y, found_dx, found_dw = output_and_gradients(layer, x, mode)
    assert_close(found_y, y)
    assert_close(found_dx, dx)
    assert_close(found_dw * lengths, dw, 1e-11)


@BOTH_MODES
@MAX_OUTS
@EXPONENTS
@KINDS
def test_a_row_of_zeros_answers_with_zero(kind: str, b: float, max_out: int, mode: Mode) -> None:
    layer, x = layer_and_input(kind, b, max_out, torch.float32)
    usual, *_ = output_and_gradients(layer, x, mode)
    layer.weight.data[max_out : 2 * max_out] = 0
    y, dx, dw = output_and_gradients(layer, x, mode)
    units = y.movedim(1, 0), usual.movedim(1, 0)
    assert not units[0][1].count_nonzero()
    assert all(torch.equal(found[[0, 2]], expected[[0, 2]]) for found, expected in [units])
    assert dx.isfinite().all()
    assert dw.isfinite().all()


@pytest.mark.parametrize("a", [1e-3, 3, 1e4])
def test_homogeneous_of_degree_one(a: float) -> None:
    layer, x = BcosLinear(6, 4, max_out=2).double(), torch.randn(3, 6).double()
    assert_close(layer(a * x), a * layer(x), 1e-8)  # but for the 1e-12 in the norm


@BOTH_MODES
def test_sums_prove_nothing(mode: Mode) -> None:
    # Euler: input x gradient of a homogeneous function sums to it, whether its dynamic weight was frozen or not.
    layer, x = BcosLinear(6, 4).double(), torch.randn(3, 6).double().requires_grad_()
    with mode():
        y = layer(x)
        (rows,) = torch.autograd.grad(y[:, 0].sum(), x)
    assert_close((x * rows).sum(1), y[:, 0], 1e-11)


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
