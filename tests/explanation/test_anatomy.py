"""The anatomy of a prediction against a network written by hand: stages, branches, heads and classes."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from bcos_vit import Anatomy, Combination, Contrast, anatomy, explain
from by_hand import ByHand, by_hand
from kinds import KINDS, kind
from laws import assert_close, assert_equal
from toys import images_for

BCOS = [name for name in KINDS if name.startswith("bcos")]
CLASSES = 5
every_kind = pytest.mark.parametrize("name", BCOS)
both_precisions = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


@functools.cache
def taken_apart(name: str, dtype: torch.dtype) -> tuple[Anatomy, ByHand, Tensor]:
    """The anatomy of a kind's toy, and the same network by hand; with what is explained as a sum of logits, (B,)."""
    model = kind(name, dtype=dtype, num_classes=CLASSES)
    images = images_for(model, 2)
    hand = by_hand(model, images)
    target = [3, 1]
    return anatomy(model, images, target), hand, hand.logits[[0, 1], target]


def close(found: Tensor, expected: Tensor, what: str) -> None:
    """To 1e-12 of the largest in float64; in float32 3e-5, since stems of six stages amplify rounding."""
    assert_close(found, expected, 1e-12 if found.dtype == torch.float64 else 3e-5, what)


def total(slope: Tensor, value: Tensor) -> Tensor:
    return (slope * value.detach()).flatten(1).sum(1)


@both_precisions
@every_kind
def test_tokens_are_gradient_times_value_at_every_stage(name: str, dtype: torch.dtype) -> None:
    parts, hand, output = taken_apart(name, dtype)
    close(parts.logits, hand.logits, "logits")
    assert set(hand.stages) == {"pooled", *parts.stages} - ({"pooled"} if "scores" in parts.stages else set())
    assert parts.tokens.keys() == parts.constants.keys()
    for stage, tokens in parts.tokens.items():
        value = hand.stages[stage]
        slope = hand.slope(output, value)
        close(tokens, (slope * value).sum(-1).flatten(1), stage)
        constants = torch.full((2,), hand.bias, dtype=torch.float64)
        if stage == "tokens" and hand.position is not None:  # which later stages contain
            constants += total(hand.slope(output, hand.position), hand.position)
        close(parts.constants[stage], constants, f"constants after {stage}")


@both_precisions
@every_kind
def test_branches_are_gradient_times_what_was_added(name: str, dtype: torch.dtype) -> None:
    parts, hand, output = taken_apart(name, dtype)
    assert parts.branches.keys() == hand.branches.keys()
    for stage in {stage for stage, _ in hand.branches}:
        slope = hand.slope(output, hand.stages[stage])
        expected = {key: total(slope, value) for key, value in hand.branches.items() if key[0] == stage}
        if dtype == torch.float64:
            for key, value in expected.items():
                close(parts.branches[key], value, f"{key[1]} of {stage}")
        found = torch.stack([parts.branches[key] for key in expected])  # in float32 one that nearly cancels rounds more
        close(found, torch.stack(list(expected.values())), f"branches of {stage}")


@both_precisions
@every_kind
def test_heads_are_what_attention_loses_without_them(name: str, dtype: torch.dtype) -> None:
    """All other heads' values zeroed, everything held still."""
    parts, hand, output = taken_apart(name, dtype)
    expected = []
    for block, heads in hand.heads.items():
        slope = hand.slope(output, hand.stages[block])
        expected.append(torch.stack([total(slope, head) for head in heads], 1))
    close(parts.heads, torch.stack(expected, 1), "heads")


@both_precisions
@every_kind
def test_classes_are_a_backward_pass_each(name: str, dtype: torch.dtype) -> None:
    parts, hand, _ = taken_apart(name, dtype)
    value = hand.stages[parts.stages[-1]]
    rows = [(hand.slope(hand.logits[:, c], value) * value).sum(-1) for c in range(CLASSES)]
    close(parts.classes, torch.stack(rows, -1), "classes")
    close(parts.class_constants, torch.full((2, CLASSES), hand.bias, dtype=torch.float64), "constants of the classes")


@pytest.mark.parametrize("name", ["bcos-sincos-pool", "bcos-values-maxout", "bcos-stem-maxout"])
@pytest.mark.parametrize(
    ("target", "coefficients"),
    [
        (None, None),
        (4, [[0, 0, 0, 0, 1]] * 2),
        (Contrast(0, torch.tensor([1, 3])), [[1, -1, 0, 0, 0], [1, 0, 0, -1, 0]]),
        (Contrast(2), [[-0.2, -0.2, 0.8, -0.2, -0.2]] * 2),
        (Combination([1.0, 2, 0, -3, 0.5]), [[1, 2, 0, -3, 0.5]] * 2),
    ],
    ids=["predicted", "one", "contrast", "mean", "combination"],
)
def test_any_target(name: str, target: Any, coefficients: list[list[float]] | None) -> None:
    model = kind(name, dtype=torch.float64, num_classes=CLASSES)
    images = images_for(model, 2)
    parts, hand = anatomy(model, images, target).check(), by_hand(model, images)
    wanted = torch.nn.functional.one_hot(hand.logits.argmax(1), CLASSES) if coefficients is None else coefficients
    output = (hand.logits * torch.as_tensor(wanted, dtype=torch.float64)).sum(1)
    for stage, tokens in parts.tokens.items():
        value = hand.stages[stage]
        close(tokens, (hand.slope(output, value) * value).sum(-1).flatten(1), stage)
    close(parts.classes, taken_apart(name, torch.float64)[0].classes, "classes, whatever the target")


@both_precisions
@pytest.mark.parametrize("name", ["bcos-sincos-pool", "bcos-stem-rope-tokens"])
def test_it_holds_the_explanation_of_the_same_logit(name: str, dtype: torch.dtype) -> None:
    model = kind(name, dtype=dtype)
    images = images_for(model)
    for target in (None, [0, 1, 2], Contrast(0, 1)):
        parts = anatomy(model, images, target)
        assert_equal(parts.explanation, explain(model, images, target))
        assert torch.equal(parts.constants["tokens"], sum(parts.explanation.constants.values()))
        for stage in parts.stages:
            e = explain(model, images, target, at=stage)
            assert_close(parts.tokens[stage], e.contributions.flatten(1), None, stage)


@pytest.mark.parametrize("name", ["bcos-sincos-pool", "bcos-none-tokens"])
def test_shapes(name: str) -> None:
    model = kind(name, depth=4)
    images = torch.rand(3, 3, 8, 16)  # a grid that is not square
    parts = anatomy(model, images)
    blocks = [f"blocks.{n}" for n in range(4)]
    assert parts.stages == ("tokens", *blocks, *(["scores"] if model.spec.head == "tokens" else []))
    assert parts.grid == (2, 4)
    assert {t.shape for t in parts.tokens.values()} == {(3, 8)}
    assert list(parts.branches) == [(block, branch) for block in blocks for branch in ("skip", "attention", "mlp")]
    assert parts.heads.shape == (3, 4, model.spec.heads)
    assert parts.classes.shape == (3, 8, 5)
    tensors = [parts.logits, parts.heads, parts.classes, parts.class_constants]
    for t in (*tensors, *parts.tokens.values(), *parts.constants.values(), *parts.branches.values()):
        assert not t.requires_grad
