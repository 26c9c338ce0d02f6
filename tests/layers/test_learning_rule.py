"""The closed-form gradient of the B-cos transform: right, finite at zero, and differentiable again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from bcos_vit.layers import BcosConv2d, BcosLinear
from laws import assert_close
from toys import GEOMETRIES, conv, generator
from twins import bcos_conv, bcos_linear, unit_rows

EXPONENTS = (1.25, 1.5, 2, 2.5, 3)


def identity(t: Tensor) -> Tensor:
    return t


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
    with torch.no_grad():  # rows of any length
        layer.weight *= torch.linspace(0.3, 3, len(layer.weight)).view(-1, *[1] * (layer.weight.dim() - 1))
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


@pytest.mark.parametrize("geometry", ["stem", "not-square"])
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
