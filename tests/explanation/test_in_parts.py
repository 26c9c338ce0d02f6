"""A memory bound: the images are taken in parts, and what comes out is what the whole batch would have given."""

from __future__ import annotations

import dataclasses
import math
import re
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from bcos_vit import Combination, Contrast, TopK, Unit, collapse, explain
from bcos_vit.explanation import inherent
from bcos_vit.models.vit import ViT
from laws import RTOL, TENSORS, assert_close
from toys import NAME, images_for, toy

BATCH = 7
FIRST = 2
"""Images of the first part in these tests."""


@pytest.fixture(params=[torch.float64, torch.float32], ids=str)
def model(request: pytest.FixtureRequest) -> ViT:
    return toy(NAME, dtype=request.param)


@pytest.fixture
def images(model: ViT) -> Tensor:
    return images_for(model, BATCH)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each forward pass got, where the first part is of two images."""
    found: list[int] = []

    def spy(model: nn.Module, images: Tensor, **options: Any) -> Any:
        found.append(len(images))
        return collapse(model, images, **options)

    monkeypatch.setattr(inherent, "collapse", spy)
    monkeypatch.setattr(inherent, "FIRST", FIRST * 12 * 12)
    return found


PER_IMAGE = torch.tensor([0, 1, 2, 3, 4, 0, 1])
SEVERAL = torch.stack((PER_IMAGE, 4 - PER_IMAGE, PER_IMAGE), 1)
TARGETS: dict[str, Any] = {
    "predicted": None,
    "one": 3,
    "list": PER_IMAGE.tolist(),
    "per image": PER_IMAGE,
    "several": SEVERAL,
    "several in a list": SEVERAL.tolist(),
    "top": TopK(3),
    "contrast": Contrast(1, 3),
    "contrast per image": Contrast(PER_IMAGE, (PER_IMAGE + 1) % 5),
    "contrast of lists": Contrast(PER_IMAGE.tolist(), ((PER_IMAGE + 1) % 5).tolist()),
    "contrast, half": Contrast(4, torch.tensor([0, 1, 2, 3, 0, 1, 2])),
    "mean": Contrast(PER_IMAGE),
    "combination": Combination([1.0, 0, -2, 0, 0.5]),
    "combination per image": Combination(torch.linspace(-1, 1, 35).view(BATCH, 5)),
    "unit": Unit("blocks.0", 3, 4),
    "pooled unit": Unit("pooled", 3),
}


CASES = [(name, at) for name, target in TARGETS.items() for at in (None, "blocks.0")[: 2 - isinstance(target, Unit)]]


@pytest.mark.parametrize(("memory", "parts"), [(1, [2, 1, 1, 1, 1, 1]), (10**9, [2, 5])], ids=["singly", "the rest"])
@pytest.mark.parametrize(("name", "at"), CASES)
def test_parts_make_up_the_whole(
    model: ViT,
    images: Tensor,
    sizes: list[int],
    name: str,
    at: str | None,
    memory: int,
    parts: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = TARGETS[name]
    e = explain(model, images, target, at=at, memory=memory).check()
    monkeypatch.setattr(inherent, "FIRST", 10**9)
    whole = explain(model, images, target, at=at)
    assert sizes == [*parts, BATCH]
    for field in TENSORS:
        mine, expected = getattr(e, field), getattr(whole, field)
        assert (mine is None) == (expected is None), field
        if mine is not None:
            assert_close(mine, expected, 0.0 if field in ("images", "target", "against") else None, field)
    assert e.constants.keys() == whole.constants.keys()
    for line, constant in whole.constants.items():
        assert bool(((e.constants[line] - constant).abs() <= RTOL[constant.dtype] * whole.magnitude).all())
    for field in ("method", "cost", "of", "at"):
        assert getattr(e, field) == getattr(whole, field)


def graph(model: ViT, images: Tensor) -> int:
    """Bytes that one forward pass keeps for backward, besides the weights."""
    weights = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage()
        return t.detach()

    with saved_tensors_hooks(keep, lambda t: t):
        collapse(model, images)
    return sum(storage.nbytes() for place, storage in kept.items() if place not in weights)


@pytest.mark.parametrize("mlp_width", [40, 4000], ids=["small", "mostly weights"])
@pytest.mark.parametrize("fit", [20, 10, 5])
def test_parts_are_bounded(sizes: list[int], fit: int, mlp_width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many images at once as fit, by what the part before needed; the weights do not count."""
    model = toy(NAME, mlp_width=mlp_width)
    images = images_for(model, 50)
    monkeypatch.setattr(inherent, "FIRST", 10 * 12 * 12)
    explain(model, images, memory=fit * graph(model, images[:10]) // 10)
    assert sizes[0] == 10
    assert sum(sizes) == 50
    assert all(0.6 * fit <= size <= 1.5 * fit for size in sizes[1:-1])  # memory that was freed may count


def test_photographs_go_by_eight_at_first() -> None:
    assert inherent.FIRST // (224 * 224) == 8
    assert inherent.MEMORY == 2**30


def test_one_part_is_the_ordinary_case(model: ViT, images: Tensor, sizes: list[int]) -> None:
    explain(model, images[:FIRST], memory=1)
    assert sizes == [FIRST]


def test_only_one_graph_lives_at_a_time(model: ViT, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    maps: list[weakref.ref[Any]] = []

    def spy(*arguments: Any, **options: Any) -> Any:
        assert all(made() is None for made in maps)
        linear_map = collapse(*arguments, **options)
        maps.append(weakref.ref(linear_map))
        return linear_map

    monkeypatch.setattr(inherent, "collapse", spy)
    monkeypatch.setattr(inherent, "FIRST", 1)
    explain(model, images, TopK(2), memory=1)
    assert len(maps) == BATCH


# --- refusals, in terms of the whole batch ---


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([0, 1], r"\(7,\) classes or \(7, T\) classes for 7 images, found shape \(2,\)"),
        (SEVERAL[:2], r"for 7 images, found shape \(2, 3\)"),
        (Contrast([0, 1]), r"one class or \(7,\) classes, found shape \(2,\)"),
        (Contrast(0, [1, 2]), r"one class or \(7,\) classes, found shape \(2,\)"),
        (Combination(torch.ones(2, 5)), r"\(K,\) or \(7, K\) coefficients, found shape \(2, 5\)"),
        ([0, 1, 2, 3, 4, 0, 9], "target 9 is out of range"),
        (Contrast(PER_IMAGE, 1), "two different classes, found 1 twice"),
        (TopK(6), r"TopK\(6\).*the model's 5"),
    ],
    ids=repr,
)
def test_targets_that_do_not_fit(model: ViT, images: Tensor, sizes: list[int], target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain(model, images, target)


def test_images_are_looked_at_in_every_part(model: ViT, images: Tensor, sizes: list[int]) -> None:
    images[-1, 0, 0, 0] = 1.5
    with pytest.raises(ValueError, match=r"to 1\.5"):
        explain(model, images, memory=1)
    e = explain(model, images, memory=1, check_values=False)
    assert torch.equal(e.images, images)


@pytest.mark.parametrize("memory", [0, -5, math.nan, math.inf, "1GB", None], ids=repr)
def test_memory_needs_bytes(model: ViT, images: Tensor, memory: Any) -> None:
    with pytest.raises(ValueError, match=f"memory must be a number of bytes above 0, found {memory!r}"):
        explain(model, images, memory=memory)


def test_memory_may_be_written_as_a_float(model: ViT, images: Tensor, sizes: list[int]) -> None:
    explain(model, images, memory=2e9)
    explain(model, images, memory=0.5)
    assert sizes == [2, 5, 2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("shape", [(), (5,), (3, 12, 12), (7, 3, 12)])
def test_images_of_another_rank(model: ViT, shape: tuple[int, ...]) -> None:
    images = torch.rand(shape, dtype=model.head.classify.weight.dtype)
    with pytest.raises(ValueError, match=re.escape(f"images must have shape (B, 3, H, W), found {shape}")):
        explain(model, images)


def test_indexing_what_came_in_parts(model: ViT, images: Tensor, sizes: list[int]) -> None:
    e = explain(model, images, TopK(2), memory=1)
    for i in (0, 2, 6):
        e[i].of_target(1).check()
        assert torch.equal(e[i].images, images[i])
    assert dataclasses.replace(e, weights=None)[:3].target.shape == (3, 2)
