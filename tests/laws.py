"""The laws that every brick obeys, in either mode, and what makes two explanations the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bcos_vit import Explanation
from bcos_vit.layers import frozen
from twins import Function, Twin

RTOL = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Of the largest entry: what rounding may do to one brick."""

Mode = Callable[[], contextlib.AbstractContextManager[None]]
MODES = [pytest.param(contextlib.nullcontext, id="learning"), pytest.param(frozen, id="frozen")]
BOTH_MODES = pytest.mark.parametrize("mode", MODES)


# --- laws ---


def assert_close(found: Tensor, expected: Tensor, rtol: float | None = None, what: str = "values") -> None:
    """Agreement relative to the largest entry expected; NaN never agrees."""
    assert found.shape == expected.shape, f"{what}: shapes {tuple(found.shape)} and {tuple(expected.shape)}"
    allowed = RTOL[found.dtype] if rtol is None else rtol
    error, scale = (found.double() - expected.double()).abs().max(), expected.double().abs().max()
    assert error <= allowed * scale, f"{what}: off by {error:.3g} of {scale:.3g}, allowed {allowed:g}"


def jacobian(function: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output and Jacobian (outputs, inputs) of a whole batch, row by row."""
    x = x.detach().requires_grad_()
    y = function(x)
    units = torch.eye(y.numel(), dtype=y.dtype).view(-1, *y.shape)
    rows = [torch.autograd.grad(y, x, unit, retain_graph=True)[0].flatten() for unit in units]
    return y.detach(), torch.stack(rows)


def assert_closed_form(brick: nn.Module, x: Tensor, twin: Twin, rtol: float | None = None) -> None:
    """The frozen Jacobian is the closed form, and what the same formula with ``.detach()`` gives.

    The closed form of a batch is block diagonal: no sample sees another.
    """
    exact = x.detach().double()
    matrix = torch.block_diag(*[twin.matrix(sample) for sample in exact])
    y, held = jacobian(twin.formula, exact)
    with frozen():
        found_y, found = jacobian(brick, x)
    assert_close(held, matrix, 1e-12, "closed form and detached formula")
    assert_close(y, (matrix @ exact.flatten()).view_as(y) + twin.added, 1e-12, "matrix times input and formula")
    assert_close(found_y, y, rtol, "frozen output and formula")
    assert_close(found, matrix, rtol, "frozen Jacobian and closed form")
    assert_close(found, held, rtol, "frozen Jacobian and detached formula")


def assert_same_forward(brick: nn.Module, x: Tensor, rtol: float | None = None) -> None:
    """Freezing changes gradients only, never the output."""
    with torch.no_grad():
        learning = brick(x)
        with frozen():
            explaining = brick(x)
    assert explaining.dtype == learning.dtype, f"frozen {explaining.dtype}, unfrozen {learning.dtype}"
    assert_close(explaining, learning, rtol, "frozen and unfrozen output")


def assert_linear_when_frozen(brick: nn.Module, x: Tensor, unreached: Collection[str] = ()) -> None:
    """In frozen mode the second derivative by the input is zero.

    That alone also holds where the tape was cut, so the same second backward must reach every parameter except
    ``unreached``: those that are frozen themselves (queries, keys, prior) or only added (biases).
    """
    x = x.detach().requires_grad_()
    parameters = dict(brick.named_parameters())
    generator = torch.Generator().manual_seed(0)

    def like(t: Tensor) -> Tensor:
        return torch.randn(t.shape, generator=generator, dtype=t.dtype)

    with sdpa_kernel(SDPBackend.MATH), frozen():  # fused attention, were it used, has no second derivative
        y = brick(x)
        (row,) = torch.autograd.grad(y, x, like(y), create_graph=True)
        second: Sequence[Tensor | None] = [None] * (1 + len(parameters))
        if row.requires_grad:
            second = torch.autograd.grad(row, [x, *parameters.values()], like(row), allow_unused=True)
    curved, *slopes = (t is not None and bool(t.count_nonzero()) for t in second)
    assert not curved, "second derivative by the input is not zero"
    reached = {name for name, slope in zip(parameters, slopes, strict=True) if slope}
    assert reached == set(parameters) - set(unreached), f"second backward reaches {sorted(reached)}"


# --- explanations ---

TENSORS = ("images", "target", "logit", "probability", "contributions", "magnitude", "weights", "against", "tokens")
TENSORS += ("contributions_error", "logit_error")


def assert_equal(found: Explanation, expected: Explanation) -> None:
    """Bit for bit, field by field."""
    for name in TENSORS:
        mine, theirs = getattr(found, name), getattr(expected, name)
        assert (mine is None) == (theirs is None), name
        assert mine is None or (mine.dtype == theirs.dtype and torch.equal(mine, theirs)), name
    assert found.constants.keys() == expected.constants.keys()
    assert all(torch.equal(found.constants[name], t) for name, t in expected.constants.items())
    assert found._words() == expected._words()
