"""How B-cos layers live with torch's function transforms and its compiler."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp, vmap

from bcos_vit.layers import BcosLinear, GroupNorm, LayerNorm, frozen
from laws import BOTH_MODES, Mode, assert_close
from toys import conv


@pytest.fixture(autouse=True)
def _no_compiled_code() -> Iterator[None]:
    yield
    torch._dynamo.reset()  # one test's compiled code is no other's business


# --- torch.func ---


def uneven(norm: nn.Module) -> nn.Module:
    nn.init.uniform_(norm.weight, 0.5, 1.5)  # of equal weights the squares' sum would never change
    return norm


def layers_and_inputs() -> list[Any]:
    def case(name: str, make: Callable[[], nn.Module], *shape: int) -> Any:
        return pytest.param(make, shape, id=name)

    return [
        case("linear", lambda: BcosLinear(6, 4, max_out=2), 3, 2, 6),
        case("linear-b", lambda: BcosLinear(6, 4, b=1.5), 3, 2, 6),
        case("conv", lambda: conv(2, 1, "not-square"), 3, 4, 4, 4),
        case("conv-b", lambda: conv(1.5, 2, "stem"), 3, 4, 4, 4),
        case("layer-norm", lambda: uneven(LayerNorm(6)), 3, 2, 6),
        case("group-norm", lambda: uneven(GroupNorm(4, groups=2)), 3, 4, 3, 2),
    ]


CASES = pytest.mark.parametrize(("make", "shape"), layers_and_inputs())
COMPILED = pytest.mark.parametrize(
    ("make", "shape"), [c for c in layers_and_inputs() if c.id not in ("linear-b", "conv")]
)


@BOTH_MODES
@CASES
def test_vmap_is_the_batched_call(make: Callable[[], nn.Module], shape: tuple[int, ...], mode: Mode) -> None:
    layer, x = make().double(), torch.randn(shape).double()
    with mode():
        assert_close(vmap(lambda sample: layer(sample[None])[0])(x), layer(x))


@BOTH_MODES
@CASES
def test_many_gradients_at_once(make: Callable[[], nn.Module], shape: tuple[int, ...], mode: Mode) -> None:
    layer, x = make().double(), torch.randn(shape).double()
    with mode():
        y, pull = vjp(lambda weight, t: functional_call(layer, {"weight": weight}, t), layer.weight.detach(), x)
    wanted = torch.randn(3, *y.shape).double()
    found = vmap(pull)(wanted)
    for number, g in enumerate(wanted):
        for batched, one in zip(found, pull(g), strict=True):
            assert_close(batched[number], one)


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


@COMPILED
def test_compiles_whole_and_follows_the_mode(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    assert_compiles(make().double(), torch.randn(shape).double(), "aot_eager", 1e-12)


@pytest.mark.slow
def test_compiles_to_machine_code() -> None:
    assert_compiles(BcosLinear(6, 4, max_out=2), torch.randn(3, 6), "inductor", 1e-5)
