"""While a linear map is collapsed: weights that nothing is kept for, and the stages and branches of a forward pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bcos_vit.layers import Attention, BcosConv2d, BcosLinear, GroupNorm, LayerNorm, TokenHead, constant, frozen
from bcos_vit.layers.mode import branch, fixed, recording, stage


@pytest.fixture
def t() -> Tensor:
    return torch.randn(2, 3, requires_grad=True)


# --- weights while a linear map is collapsed ---


def attention() -> Attention:
    value, project = BcosLinear(8, 8), BcosLinear(8, 8)
    return Attention(8, 2, norm=LayerNorm(8), value=value, project=project, prior_tokens=5)


BRICKS = pytest.mark.parametrize(
    ("make", "shape"),
    [
        pytest.param(lambda: BcosLinear(4, 3), (2, 4), id="linear"),
        pytest.param(lambda: BcosLinear(4, 3, b=1.5, max_out=2), (2, 4), id="linear-max-out"),
        pytest.param(lambda: BcosConv2d(4, 4, 3, groups=2), (2, 4, 5, 5), id="conv"),
        pytest.param(lambda: LayerNorm(4), (2, 4), id="layer-norm"),
        pytest.param(lambda: GroupNorm(4), (2, 4, 3, 3), id="group-norm"),
        pytest.param(attention, (2, 5, 8), id="attention"),
    ],
)


def test_fixed_detaches_without_a_copy(t: Tensor) -> None:
    with recording(2):
        held = fixed(t)
    assert not held.requires_grad
    assert held.data_ptr() == t.data_ptr()
    assert fixed(t) is t  # afterwards the identity again


class Kept:
    """A tensor that autograd keeps for backward, for as long as it does."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def output_and_kept(brick: nn.Module, x: Tensor, mode: AbstractContextManager[Any]) -> tuple[Tensor, list[Tensor]]:
    """The output, and every tensor that its backward pass keeps."""
    alive: weakref.WeakSet[Kept] = weakref.WeakSet()

    def pack(t: Tensor) -> Kept:
        alive.add(kept := Kept(t.detach()))  # without its graph, which would keep it alive
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor), mode:
        y = brick(x)
    return y, [kept.tensor for kept in alive]


@BRICKS
def test_no_weight_gets_a_gradient_while_recording(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    brick, x = make(), torch.randn(shape, requires_grad=True)
    with_weights, usual = output_and_kept(brick, x, frozen())
    y, kept = output_and_kept(brick, x, recording(2))
    y.sum().backward()
    row = x.grad.clone()
    assert all(parameter.grad is None for parameter in brick.parameters())
    assert torch.equal(row, torch.autograd.grad(with_weights.sum(), x)[0])
    assert len(kept) <= len(usual)
    if not isinstance(brick, BcosConv2d):  # torch's convolution keeps its input, whatever is asked for
        assert x.data_ptr() in [t.data_ptr() for t in usual]
        assert x.data_ptr() not in [t.data_ptr() for t in kept]  # only a weight's gradient needs it


# --- stages and branches ---


def test_stages_and_branches_are_the_identity_and_kept_only_when_asked(t: Tensor) -> None:
    def pass_by() -> bool:
        return stage("s", t) is t and branch("b", t) is t

    assert pass_by()
    with frozen():
        assert pass_by()
    with recording(2) as plain:
        assert pass_by()
    assert not plain.stages
    assert not plain.branches
    with recording(2, staged=True) as staged:
        assert pass_by()
    assert staged.stages["s"].value is t
    assert staged.branches == {"b": t}
    assert pass_by()


def test_a_stage_knows_its_branches_and_the_constants_before_it(t: Tensor) -> None:
    with recording(2, staged=True) as recorder:
        first = stage("first", t)
        branch("left", first)
        constant("position", t)
        branch("right", t + 1)
        stage("second", t + 2)
        with recording(3, staged=True) as inner:
            stage("inner", branch("its own", t))
        stage("third", t)
    assert list(recorder.stages) == ["first", "second", "third"]
    assert [s.constants for s in recorder.stages.values()] == [0, 1, 1]
    assert [list(s.branches) for s in recorder.stages.values()] == [[], ["left", "right"], []]
    assert torch.equal(recorder.stages["second"].branches["right"], t + 1)
    assert list(inner.stages) == ["inner"]
    assert list(inner.stages["inner"].branches) == ["its own"]


def test_a_kept_stage_is_part_of_the_graph() -> None:
    head, x = TokenHead(LayerNorm(4), BcosLinear(4, 3)), torch.randn(2, 5, 4, requires_grad=True)
    with recording(2, staged=True) as recorder:
        y = head(x)
    ((name, scores),) = recorder.stages.items()
    assert name == "scores"
    (slope,) = torch.autograd.grad(y[:, 0].sum(), scores.value)
    expected = torch.zeros(2, 5, 3)
    expected[..., 0] = 1 / 5
    assert torch.allclose(slope, expected)
