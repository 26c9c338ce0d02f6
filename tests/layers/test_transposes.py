"""The linear maps inside B-cos layers: every transpose written out is what autograd finds, whatever the geometry."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from bcos_vit.layers.maps import ROW_EPS, Convolution, Dense, Map
from laws import assert_close
from twins import Pair


def assert_transposes(linear: Map, x: Tensor, w: Tensor) -> None:
    x, w = (t.double().requires_grad_() for t in (x, w))
    l, n = linear.product(x, w), linear.norm(x)
    g, h = torch.randn_like(l), torch.randn_like(n)
    dx, dw = torch.autograd.grad(l, (x, w), g)
    (dn,) = torch.autograd.grad(n, x, h)
    with torch.no_grad():
        assert_close(linear.input_gradient(g, x.shape, w), dx, what="input gradient")
        assert_close(linear.weight_gradient(g, x, w), dw, what="weight gradient")
        assert_close(linear.add_norm_gradient(dx, h / n, x), dx + dn, 1e-11, "gradient of the norm")
        spread = linear.per_unit(h, l.shape[linear.axis])
        assert_close((spread * g).sum(), (h * linear.sum_units(g)).sum(), 1e-11, "sum over units")


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5)], ids=str)
def test_dense(shape: tuple[int, ...]) -> None:
    assert_transposes(Dense(), torch.randn(shape), torch.randn(3, 5))


@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 0)], ids=str)
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 3), (4, 2)], ids=str)
def test_convolution(stride: Pair, padding: Pair) -> None:
    for groups, kernel, height, width in itertools.product((1, 2, 4), [(3, 2), (1, 1)], (3, 6, 7), (4, 5)):
        x, w = torch.randn(2, 4, height, width), torch.randn(8, 4 // groups, *kernel)
        assert_transposes(Convolution(stride, padding, groups, kernel), x, w)


def test_a_convolutions_leftover_pixels_get_a_gradient_of_zero() -> None:
    linear, w = Convolution((3, 3), (0, 0), 1, (2, 2)), torch.randn(3, 4, 2, 2)
    dx = linear.input_gradient(torch.randn(1, 3, 2, 2), torch.Size((1, 4, 7, 6)), w)
    assert dx.shape == (1, 4, 7, 6)
    assert not dx[:, :, 5:].count_nonzero()
    assert not dx[:, :, :, 5:].count_nonzero()


def test_norms_of_rows() -> None:
    w = torch.randn(3, 4, 2, 2).bfloat16()
    w[1] = 0
    dense, conv = Dense().row_norm(w.flatten(1)), Convolution((1, 1), (0, 0), 1, (2, 2)).row_norm(w)
    assert conv.shape == (3, 1, 1)
    for r in (dense, conv.flatten()):
        assert r.dtype == torch.float32
        assert r[1] == torch.tensor(ROW_EPS)
        assert_close(r[[0, 2]], w[[0, 2]].double().flatten(1).norm(dim=1), 1e-6)
