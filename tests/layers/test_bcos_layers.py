"""What a B-cos layer is, and the sentences for what none can be."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

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


def test_the_length_of_a_row_does_not_matter() -> None:
    layer, x = BcosLinear(4, 3, b=1.5).double(), torch.randn(5, 4).double()
    y = layer(x)
    layer.weight.data *= torch.tensor([[0.1], [1], [30]])
    assert_close(layer(x), y)


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
