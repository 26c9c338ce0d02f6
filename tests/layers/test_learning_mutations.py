"""Break the learning rule, one term at a time, and see that its gradients are no longer the composition's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from laws import assert_close
from mutants import Swap, module_from_source
from twins import bcos_conv, bcos_linear

MUTATIONS: dict[str, tuple[float, int, Swap]] = {
    "no norm term": (2, 2, ("dx = linear.add_norm_gradient(dx, dn / (n * n), x)", "pass")),
    "half a norm term": (1.5, 1, ("dn = -linear.sum_units(slope * l)", "dn = linear.sum_units(slope * l) / -2")),
    "no slope of |cos| at B = 2": (2, 1, ("cos.mul_(2 / unit)", "cos.mul_(1 / unit)")),
    "no slope of |cos|": (1.5, 2, ("dl = slope + g *", "dl = g *")),
    "the wrong winner": (2, 2, ("scatter(axis + 1, winner", "scatter(axis + 1, 1 - winner")),
    "no projection": (2, 1, ("dw = dw.addcmul(w, -along", "dw = dw.addcmul(w, 0 * along")),
    "no projection with MaxOut": (1.5, 2, ("dw = dw.addcmul(w, -along", "dw = dw.addcmul(w, 0 * along")),
    "a projection of other rows": (2, 1, ("-along.to(w.dtype)", "-along.roll(1).to(w.dtype)")),
    "no row norm at B = 2": (2, 1, ("cos.mul_(2 / unit)", "cos.mul_(2)")),
    "no row norm": (1.5, 1, ("pow(b - 1) / unit)", "pow(b - 1))")),
    "no row norm of the winners": (2, 2, ("linear.axis, max_out) / r)", "linear.axis, max_out))")),
}


def assert_gradients(layer: nn.Module, x: Tensor, plain: Callable[[Tensor, Tensor], Tensor]) -> None:
    layer.weight.data *= torch.logspace(-1, 1, len(layer.weight)).view(-1, *[1] * (layer.weight.dim() - 1))
    x = (10 * x).requires_grad_()  # the closed form leaves out the norm's 1e-12 where it would not show
    leaves = x, layer.weight
    for found, expected in zip(
        torch.autograd.grad(layer(x).square().sum(), leaves),
        torch.autograd.grad(plain(*leaves).square().sum(), leaves),
        strict=True,
    ):
        assert_close(found, expected, 1e-12, "gradient")


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_gradient_comparison_catches(name: str, kind: str) -> None:
    b, max_out, swap = MUTATIONS[name]

    def check(module: Any) -> None:
        torch.manual_seed(0)
        if kind == "linear":
            layer, x = module.BcosLinear(5, 3, b=b, max_out=max_out).double(), torch.randn(2, 5).double()
            assert_gradients(layer, x, lambda x, w: bcos_linear(x, w, b, max_out, hold=lambda t: t))
        else:
            layer, x = module.BcosConv2d(2, 3, 3, b=b, max_out=max_out).double(), torch.randn(1, 2, 4, 4).double()
            assert_gradients(layer, x, lambda x, w: bcos_conv(x, w, b, max_out, hold=lambda t: t))

    check(module_from_source("bcos"))
    with pytest.raises(AssertionError, match="gradient"):
        check(module_from_source("bcos", swap))
