"""Attention while explaining: the matrix written out gives what the fused kernel gives, and leaves no graph."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils._python_dispatch import TorchDispatchMode

from bcos_vit import collapse
from bcos_vit.layers import Attention, BcosLinear, LayerNorm, attention, frozen
from bcos_vit.layers.attention import Mix, attend
from bcos_vit.layers.bcos import BcosLearning
from bcos_vit.layers.norm import FrozenNorm
from bcos_vit.layers.position import rotation
from laws import BOTH_MODES, Mode, assert_close, assert_same_forward
from toys import NAME, images_for, toy

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


@pytest.mark.parametrize("in_dims", [(None, 0), (None, 2), (1, None), (0, 1), (3, 3)], ids=str)
def test_the_product_of_several_is_that_of_each(in_dims: tuple[int | None, int | None]) -> None:
    given = [torch.randn(2, 3, n, m, dtype=torch.float64) for n, m in ((5, 5), (5, 4))]
    given = [
        t if axis is None else torch.stack([t, 2 * t, t - 1], axis) for t, axis in zip(given, in_dims, strict=True)
    ]
    assert_close(vmap(Mix.apply, in_dims)(*given), vmap(torch.matmul, in_dims)(*given))


def test_the_product_has_the_gradients_of_a_product() -> None:
    matrix, v = (torch.randn(2, 5, m, dtype=torch.float64, requires_grad=True) for m in (5, 4))
    assert torch.autograd.gradcheck(Mix.apply, (matrix, v))
    assert torch.autograd.gradgradcheck(Mix.apply, (matrix, v))


@pytest.mark.parametrize("function", [Mix, FrozenNorm, BcosLearning])
def test_the_signature_of_forward_is_known(function: type[torch.autograd.Function]) -> None:
    assert inspect.signature(function.forward) is function.forward.__signature__  # type: ignore[attr-defined]


class Largest(TorchDispatchMode):
    """Keeps the number of values of the largest result."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and not found._is_view():
            self.values = max(self.values, found.numel())
        return found


def test_the_matrix_is_not_copied_for_every_target() -> None:
    """Of 7 gradients at once, nothing is as large as 7 attention matrices."""
    matrix, v = torch.rand(1, 2, 50, 50), torch.rand(1, 2, 50, 3, requires_grad=True)
    targets = torch.randn(7, 1, 2, 50, 3)
    for product, copied in ((torch.matmul, True), (Mix.apply, False)):
        mixed = product(matrix, v)
        with Largest() as largest:
            vmap(lambda g, mixed=mixed: torch.autograd.grad(mixed, v, g, retain_graph=True)[0])(targets)
        assert (largest.values >= 7 * matrix.numel()) is copied


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


def test_rows_after_autocast_where_the_softmax_stays_in_float32(monkeypatch):
    """As it does on a GPU: the matrix and the gradients of its product would have different dtypes."""
    monkeypatch.setattr(attention, "attend", lambda *given: attend(*given).float())
    model = toy(NAME)
    with torch.autocast("cpu", torch.bfloat16):
        linear_map = collapse(model, images_for(model))
    assert linear_map.rows(0).isfinite().all()
