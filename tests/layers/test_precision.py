"""Low precision and autocast: what B-cos layers and norms compute in float32, and what they hand on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bcos_vit.layers import BcosConv2d, BcosLinear, GroupNorm, LayerNorm, frozen
from bcos_vit.layers.bcos import Convolution, Dense, cosine_power
from laws import BOTH_MODES, Mode, assert_close, assert_same_forward
from toys import conv, generator
from twins import unit_rows

# --- B-cos layers ---

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
    layer = BcosLinear(5000, 20, b=1).bfloat16()  # so long that a sum of squares in bfloat16 would stop growing
    rows = layer(torch.eye(5000).bfloat16()).T
    assert_close(rows, unit_rows(layer.weight.detach().double()))


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


@pytest.mark.parametrize("size", [1e-15, 1.0, 1e15], ids="norm {:g}".format)
def test_scales_of_bfloat16_stay_in_it_within_its_rounding(size: float) -> None:
    """Three factors and two products are rounded, to 8 bits each."""
    l, r = torch.randn(5, 7, 300, generator=generator(0)).bfloat16(), torch.rand(300, generator=generator(1)) + 0.1
    l, r = l * r.bfloat16() * size, r * (1 if size == 1 else 1e-3)
    n = size * (1 + torch.rand(5, 7, 1, generator=generator(2)))
    expected = l.double().abs() / (n.double() * r.double() ** 2)
    scale = cosine_power(l, n, r, 2)
    assert scale.dtype == torch.bfloat16
    assert ((scale.double() - expected).abs() <= 4 * 2**-8 * expected).all()


def test_rows_of_zeros_have_a_scale_of_zero_in_bfloat16() -> None:
    layer, x = BcosLinear(6, 4).bfloat16(), torch.randn(3, 6).bfloat16()
    layer.weight.data[1] = 0
    with frozen():
        y = layer(x)
    assert y.isfinite().all()
    assert not y[:, 1].any()


# --- norms ---

LOW = pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
NORMS = pytest.mark.parametrize("make", [LayerNorm, GroupNorm])


@pytest.mark.parametrize("given", ["float32", "low"])
@LOW
@NORMS
def test_norms_give_the_same_under_autocast(make: type[nn.Module], low: torch.dtype, given: str) -> None:
    norm, x = make(6), torch.randn(2, 6, 3, 6) + 2
    with torch.autocast("cpu", low):
        assert_same_forward(norm, x if given == "float32" else x.to(low))


@LOW
@NORMS
def test_norms_of_low_precision_are_rounded_at_the_end(make: type[nn.Module], low: torch.dtype) -> None:
    norm, x = make(6).to(low), (torch.randn(2, 6, 3, 6) + 100).to(low)  # a variance that low precision would lose
    assert_same_forward(norm, x, 2**-7)
    with frozen():
        assert_close(norm(x), make(6).double()(x.double()), 2**-7)
