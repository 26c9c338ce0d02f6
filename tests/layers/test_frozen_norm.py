"""The norms while explaining: a linear map in the input and in the weight, differentiated as often as one likes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from bcos_vit.layers import GroupNorm, LayerNorm, frozen
from bcos_vit.layers.norm import FrozenNorm
from laws import assert_close
from twins import normed

EPS = 1e-3


class Case(NamedTuple):
    shape: tuple[int, ...]
    weight: tuple[int, ...]
    groups: int | None
    plain: Callable[[Tensor, Tensor], Tensor]
    """The same in plain tensor operations, the variance detached."""


def grouped(x: Tensor, w: Tensor, groups: int) -> Tensor:
    return normed(x.unflatten(1, (groups, -1)), (2, 3, 4), EPS).flatten(1, 2) * w


CASES = {
    "layer": Case((2, 3, 6), (6,), None, lambda x, w: normed(x, (-1,), EPS) * w),
    "layer-one-axis": Case((6,), (6,), None, lambda x, w: normed(x, (-1,), EPS) * w),
    "group": Case((2, 4, 3, 2), (4, 1, 1), 1, lambda x, w: grouped(x, w, 1)),
    "groups": Case((2, 4, 3, 2), (4, 1, 1), 2, lambda x, w: grouped(x, w, 2)),
}


@pytest.fixture(params=CASES.values(), ids=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def frozen_norm(case: Case) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, w: FrozenNorm.apply(x, w, case.groups, EPS)[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_output_and_both_gradients(case: Case, dtype: torch.dtype) -> None:
    x, w = torch.randn(case.shape, dtype=dtype) + 2, torch.randn(case.weight, dtype=dtype)
    g = torch.randn(case.shape, dtype=dtype)
    results = []
    for function, wide in ((frozen_norm(case), dtype), (case.plain, torch.float64)):
        leaves = [t.to(wide).requires_grad_() for t in (x, w)]
        y = function(*leaves)
        results.append((y, *torch.autograd.grad(y, leaves, g.to(wide))))
    for name, found, expected in zip(("output", "by x", "by weight"), *results, strict=True):
        assert_close(found, expected, what=name)


def test_second_backward(case: Case) -> None:
    x, w, g = (torch.randn(s).double().requires_grad_() for s in (case.shape, case.weight, case.shape))
    results = []
    for function in (frozen_norm(case), case.plain):
        dx, dw = torch.autograd.grad(function(x, w), (x, w), g, create_graph=True)
        by = {"x by weight": (dx, w), "x by g": (dx, g), "weight by g": (dw, g), "weight by x": (dw, x)}
        results.append(
            {name: torch.autograd.grad(d.square().sum(), t, retain_graph=True)[0] for name, (d, t) in by.items()}
        )
    for name, found in results[0].items():
        assert_close(found, results[1][name], 1e-11, name)


@pytest.mark.parametrize("wanted", ["x", "weight"])
def test_one_gradient_at_a_time(case: Case, wanted: str) -> None:
    x, w, g = (torch.randn(s).double() for s in (case.shape, case.weight, case.shape))
    leaf = (x if wanted == "x" else w).requires_grad_()
    (found,) = torch.autograd.grad(frozen_norm(case)(x, w), leaf, g)
    (expected,) = torch.autograd.grad(case.plain(x, w), leaf, g)
    assert_close(found, expected)


@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (0, 0)], ids=str)
def test_vmap_over_inputs_and_weights(case: Case, in_dims: tuple[int | None, ...]) -> None:
    x, w = (torch.randn(3, *s).double() for s in (case.shape, case.weight))
    args = [t if axis == 0 else t[0] for t, axis in zip((x, w), in_dims, strict=True)]
    assert_close(vmap(frozen_norm(case), in_dims)(*args), vmap(case.plain, in_dims)(*args))


@pytest.mark.parametrize("make", [LayerNorm, lambda channels: GroupNorm(channels, groups=2)], ids=["layer", "group"])
def test_any_memory_layout(make: Callable[[int], nn.Module]) -> None:
    norm, x = make(6).double(), torch.randn(2, 6, 6, 6).double()
    layouts = (
        x.to(memory_format=torch.channels_last),
        x.transpose(2, 3).contiguous().transpose(2, 3),
        x.repeat_interleave(2, dim=3)[..., ::2],
    )
    with frozen():
        expected = norm(x)
        for one in layouts:
            assert not one.is_contiguous()
            assert_close(norm(one), expected)
