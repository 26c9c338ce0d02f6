"""The mode: the two primitives that carry the whole method.

Every layer computes ``y = W(x) x``. While explaining, ``freeze`` holds ``W(x)`` still, so that the network is one
matrix and an ordinary backward pass reads off its rows; ``constant`` names what was *added* along the way, so that
the same backward pass also says how much of a logit the image does not account for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor


class Stage(NamedTuple):
    """A value on its way through the network, such as the tokens after a block."""

    value: Tensor
    constants: int
    """How many constants had been added before."""
    branches: dict[str, Tensor]
    """What was computed for it by name, such as the two that a block adds."""


class Recorder:
    """What one forward pass added, each term a leaf with a batch axis; with ``staged`` also the stages it went through.

    All in the order in which the forward pass came by.
    """

    def __init__(self, batch: int, staged: bool) -> None:
        self.batch = batch
        self.staged = staged
        self.terms: list[tuple[str, Tensor]] = []
        self.stages: dict[str, Stage] = {}
        self.branches: dict[str, Tensor] = {}

    def record(self, name: str, term: Tensor) -> Tensor:
        leaf = term.detach().expand(self.batch, *term.shape).requires_grad_()
        self.terms.append((name, leaf))
        return leaf


class _Mode(threading.local):
    # Set in __init__, not as class attributes: torch.compile guards only on what lies in the instance.
    def __init__(self) -> None:
        self.frozen = False
        self.recorder: Recorder | None = None


_mode = _Mode()


def is_frozen() -> bool:
    """Whether this thread is inside :func:`frozen`."""
    return _mode.frozen


def freeze(t: Tensor) -> Tensor:
    """While explaining, treat ``t`` as a constant weight; the identity otherwise. Any shape."""
    return t.detach() if _mode.frozen else t


def constant(name: str, term: Tensor) -> Tensor:
    """Mark ``term`` as an added constant of one sample; the identity unless a linear map is being collapsed.

    Parameters
    ----------
    name
        The line of the ledger it belongs to, such as ``"position"`` or ``"bias"``.
    term
        What is added to every sample, *without* a batch axis. While collapsing, it comes back with one, (B, ...).
    """
    return term if _mode.recorder is None else _mode.recorder.record(name, term)


def stage(name: str, t: Tensor) -> Tensor:
    """Name what a part of the network hands on, (B, ...); the identity.

    While a linear map is collapsed with its stages it is kept, together with the :func:`branch` values before it.
    """
    recorder = _mode.recorder
    if recorder is not None and recorder.staged:
        recorder.stages[name] = Stage(t, len(recorder.terms), recorder.branches)
        recorder.branches = {}
    return t


def branch(name: str, t: Tensor) -> Tensor:
    """Name a part of the next :func:`stage`, (B, ...); the identity."""
    if _mode.recorder is not None and _mode.recorder.staged:
        _mode.recorder.branches[name] = t
    return t


def fixed(weight: Tensor) -> Tensor:
    """While a linear map is collapsed nobody asks for a weight's gradient: without it, nothing is kept for it."""
    return weight if _mode.recorder is None else weight.detach()


@contextmanager
def frozen() -> Iterator[None]:
    """Hold every dynamic weight still: gradients inside are rows of the linear map. Re-entrant and per thread.

    >>> from bcos_vit.layers import BcosLinear
    >>> layer, x = BcosLinear(3, 2), torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    >>> with frozen():
    ...     y = layer(x)
    >>> rows = torch.stack([torch.autograd.grad(y[0, c], x, retain_graph=True)[0][0] for c in range(2)])
    >>> bool(torch.allclose(rows @ x[0], y[0]))
    True
    """
    before = _mode.frozen
    _mode.frozen = True
    try:
        yield
    finally:
        _mode.frozen = before


@contextmanager
def recording(batch: int, *, staged: bool = False) -> Iterator[Recorder]:
    """Freeze, and record every :func:`constant` of the forward pass of ``batch`` samples. For ``collapse``.

    With ``staged``, keep every :func:`stage` and :func:`branch` as well.
    """
    before = _mode.recorder
    _mode.recorder = Recorder(batch, staged)
    try:
        with frozen():
            yield _mode.recorder
    finally:
        _mode.recorder = before


def is_autocast(t: Tensor) -> bool:
    """Whether autocast is on for the device that ``t`` lies on; the meta device knows none."""
    return not t.is_meta and torch.is_autocast_enabled(t.device.type)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The precision in which norms, variances and ledgers are computed for values of ``dtype``."""
    return torch.promote_types(dtype, torch.float32)
