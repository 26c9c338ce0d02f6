"""Attention while explaining: the matrix written out gives what the fused kernel gives, and leaves no graph."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from bcos_vit.layers import Attention, BcosLinear, LayerNorm, frozen
from bcos_vit.layers.position import rotation
from laws import BOTH_MODES, Mode, assert_close, assert_same_forward

GRID, WIDTH, HEADS = (4, 5), 16, 2
POSITIONS = pytest.mark.parametrize("positions", ["none", "rope", "prior", "rope and prior"])


class OnGrid(nn.Module):
    """Attention of 20 tokens; ``positions`` names what tells them apart."""

    def __init__(self, positions: str) -> None:
        super().__init__()
        self.rope = "rope" in positions
        self.attention = Attention(
            WIDTH,
            HEADS,
            norm=LayerNorm(WIDTH),
            value=nn.Linear(WIDTH, WIDTH, bias=False),
            project=BcosLinear(WIDTH, WIDTH),
            prior_tokens=GRID[0] * GRID[1] if "prior" in positions else None,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, rotation(*GRID, WIDTH // HEADS, like=x) if self.rope else None)


def tokens() -> Tensor:
    return torch.randn(2, GRID[0] * GRID[1], WIDTH)


@POSITIONS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_frozen_attention_is_the_fused_one(positions: str, dtype: torch.dtype) -> None:
    brick = OnGrid(positions).to(dtype)
    nn.init.normal_(brick.attention.query_key.weight, std=0.5)  # far from flat attention
    assert_same_forward(brick, tokens().to(dtype))


BFLOAT16 = 3e-2  # of the largest entry: 8 bits, rounded at every step; scores have a few units


@POSITIONS
@pytest.mark.parametrize("autocast", [False, True], ids=["bfloat16", "autocast"])
def test_low_precision(positions: str, autocast: bool) -> None:
    brick, x = OnGrid(positions), tokens()
    with frozen():
        exact, row = row_of(brick.double(), x.double())
    brick = brick.float() if autocast else brick.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        x = x if autocast else x.bfloat16()
        learning = brick(x)
        with frozen():
            found, found_row = row_of(brick, x)
    assert found.dtype == learning.dtype == torch.bfloat16
    assert_close(found, learning, BFLOAT16, "frozen and fused")
    assert_close(found, exact, BFLOAT16, "output")
    assert_close(found_row, row, BFLOAT16, "row")


def row_of(brick: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output, and the gradient of one of its channels by the input."""
    x = x.detach().requires_grad_()
    y = brick(x)
    return y, torch.autograd.grad(y[..., 0].sum(), x)[0]


def refuse(t: Tensor) -> Tensor:
    raise AssertionError("something is kept for a backward pass")


@BOTH_MODES
def test_the_callers_gradient_mode_stays(mode: Mode) -> None:
    brick, x = OnGrid("prior"), tokens()
    with mode():
        assert brick(x).requires_grad
        assert torch.is_grad_enabled()
        with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(refuse, refuse):
            assert not brick(x).requires_grad
            assert not torch.is_grad_enabled()
        with torch.inference_mode():
            assert brick(x).is_inference()


def test_queries_keys_and_prior_have_no_gradient_while_frozen() -> None:
    brick = OnGrid("rope and prior")
    with frozen():
        brick(tokens()).sum().backward()
    without = {name for name, parameter in brick.named_parameters() if parameter.grad is None}
    assert without == {"attention.query_key.weight", "attention.prior"}


@pytest.fixture
def _no_compiled_code() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_no_compiled_code")
def test_compiles_whole_and_follows_the_mode() -> None:
    brick, x = OnGrid("rope and prior").double(), tokens().double()
    compiled: Callable[[Tensor], Tensor] = torch.compile(brick, fullgraph=True, backend="aot_eager")
    for mode in (contextlib.nullcontext, frozen, contextlib.nullcontext):
        with mode():
            for found, expected in zip(row_of(compiled, x), row_of(brick, x), strict=True):
                assert_close(found, expected)
