"""The two primitives: ``freeze`` and ``constant``, and the contexts that switch them on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from bcos_vit.layers import BcosLinear, Logits, constant, freeze, frozen
from bcos_vit.layers.mode import at_least_float32, branch, fixed, is_frozen, recording, stage
from laws import BOTH_MODES, Mode


@pytest.fixture
def t() -> Tensor:
    return torch.randn(2, 3, requires_grad=True)


def elsewhere(function: Callable[[], Any]) -> Any:
    """What another thread answers while this one waits."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_outside_both_are_the_identity(t: Tensor) -> None:
    assert not is_frozen()
    assert freeze(t) is t
    assert constant("bias", t) is t


@BOTH_MODES
def test_what_concerns_a_linear_map_is_the_identity_until_one_is_collapsed(t: Tensor, mode: Mode) -> None:
    with mode():
        assert fixed(t) is t
        assert stage("tokens", t) is t
        assert branch("skip", t) is t


def test_frozen_detaches_what_is_frozen_and_leaves_constants_alone(t: Tensor) -> None:
    with frozen():
        held = freeze(t)
        assert constant("bias", t) is t
    assert torch.equal(held, t)
    assert not held.requires_grad
    assert held.data_ptr() == t.data_ptr()  # no copy
    assert t.requires_grad


def test_frozen_is_re_entrant() -> None:
    with frozen():
        with frozen():
            assert is_frozen()
        assert is_frozen()  # the inner exit does not end the outer one
    assert not is_frozen()


def test_the_same_context_may_be_used_as_a_decorator() -> None:
    assert frozen()(is_frozen)()
    assert not is_frozen()


def test_frozen_survives_an_exception() -> None:
    with frozen():
        with pytest.raises(ValueError, match="stop"), frozen():
            raise ValueError("stop")
        assert is_frozen()
    with pytest.raises(ValueError, match="stop"), frozen():
        raise ValueError("stop")
    assert not is_frozen()


def test_a_thread_started_while_frozen_is_not(t: Tensor) -> None:
    with frozen(), recording(2, staged=True) as recorder:
        assert not elsewhere(is_frozen)
        for mark in (freeze, fixed, partial(constant, "bias"), partial(branch, "skip"), partial(stage, "tokens")):
            assert elsewhere(partial(mark, t)) is t
    assert not recorder.terms
    assert not recorder.stages
    assert not recorder.branches


def test_a_frozen_thread_freezes_no_other() -> None:
    inside, done = threading.Event(), threading.Event()

    def hold() -> bool:
        with frozen():
            inside.set()
            return done.wait(30) and is_frozen()

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(hold)
        try:
            assert inside.wait(30)
            assert not is_frozen()
            with frozen():
                pass
        finally:
            done.set()
        assert other.result()  # nor did this thread's exit thaw that one


def test_the_mode_is_read_in_forward_not_in_backward() -> None:
    layer, x = BcosLinear(4, 3).double(), torch.randn(2, 4, dtype=torch.float64, requires_grad=True)

    def gradient(forward_frozen: bool, backward_frozen: bool) -> Tensor:
        y = frozen()(layer)(x) if forward_frozen else layer(x)
        differentiate = frozen()(torch.autograd.grad) if backward_frozen else torch.autograd.grad
        return differentiate(y.sum(), x)[0]

    assert torch.equal(gradient(True, False), gradient(True, True))
    assert torch.equal(gradient(False, True), gradient(False, False))
    assert not torch.allclose(gradient(True, True), gradient(False, False))


# --- recording, which ``collapse`` alone does ---


def test_recording_freezes_and_records_with_a_batch_axis(t: Tensor) -> None:
    with recording(4) as recorder:
        assert is_frozen()
        first, second = constant("position", t), constant("bias", torch.ones(5))
        again = constant("bias", torch.zeros(5))
    assert not is_frozen()
    assert [name for name, _ in recorder.terms] == ["position", "bias", "bias"]
    for leaf, (_, recorded) in zip((first, second, again), recorder.terms, strict=True):
        assert leaf is recorded
        assert leaf.is_leaf
        assert leaf.requires_grad
    assert first.shape == (4, 2, 3)
    assert torch.equal(first, t.detach().expand(4, 2, 3))
    assert constant("bias", t) is t  # afterwards the identity again


def test_a_recorded_constant_has_a_gradient_per_sample() -> None:
    logits, x = Logits(0.5, -2.0), torch.randn(3, 4)
    with recording(3) as recorder:
        y = logits(x)
    ((name, leaf),) = recorder.terms
    assert name == "bias"
    assert torch.equal(y, 0.5 * x - 2)
    (slope,) = torch.autograd.grad(y[1, 2], leaf)
    expected = torch.zeros(3, 4)
    expected[1, 2] = 1
    assert torch.equal(slope, expected)


def test_nested_recordings_keep_apart(t: Tensor) -> None:
    with recording(2) as outer:
        constant("a", t)
        with recording(3) as inner:
            assert constant("b", t).shape == (3, 2, 3)
        assert constant("c", t).shape == (2, 2, 3)
    assert [name for name, _ in outer.terms] == ["a", "c"]
    assert [name for name, _ in inner.terms] == ["b"]


def test_recording_survives_an_exception(t: Tensor) -> None:
    with frozen():
        with pytest.raises(ValueError, match="stop"), recording(2):
            raise ValueError("stop")
        assert is_frozen()
        assert constant("bias", t) is t
    assert not is_frozen()


def test_frozen_inside_a_recording_keeps_recording(t: Tensor) -> None:
    with recording(2) as recorder, frozen():
        constant("bias", t)
    assert len(recorder.terms) == 1


@pytest.mark.parametrize(
    ("given", "wide"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
    ids=str,
)
def test_at_least_float32(given: torch.dtype, wide: torch.dtype) -> None:
    assert at_least_float32(given) == wide
