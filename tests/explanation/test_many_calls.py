"""Calls side by side and one after the other: threads get what one alone gets, and nothing piles up."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bcos_vit import Anatomy, Combination, Contrast, Explanation, TopK, Unit, anatomy, explain
from bcos_vit.explanation import inherent
from bcos_vit.layers.mode import is_frozen
from bcos_vit.models.vit import ViT
from laws import assert_equal
from toys import images_for, toy

Result = Explanation | Anatomy
Work = Callable[[ViT, Tensor], Result]
WORK: dict[str, Work] = {
    "predicted": lambda model, images: explain(model, images),
    "several": lambda model, images: explain(model, images, TopK(3)),
    "contrast": lambda model, images: explain(model, images, Contrast(0)),
    "combination": lambda model, images: explain(model, images, Combination([1, 0, -1]), at="tokens"),
    "stage": lambda model, images: explain(model, images, TopK(2), at="blocks.0"),
    "unit": lambda model, images: explain(model, images, Unit("pooled", 3)),
    "parts": lambda model, images: explain(model, images, memory=1),
    "anatomy": lambda model, images: anatomy(model, images),
}


@pytest.fixture
def model() -> ViT:
    return toy("bcos_vit_digits", num_classes=3)


def assert_same(found: Result, expected: Result) -> None:
    """Bit for bit."""
    if isinstance(expected, Explanation):
        assert isinstance(found, Explanation)
        assert_equal(found, expected)
        assert (found.of, found.at) == (expected.of, expected.at)
        return
    assert isinstance(found, Anatomy)
    assert_equal(found.explanation, expected.explanation)
    for name in ("tokens", "constants", "branches"):
        mine, theirs = getattr(found, name), getattr(expected, name)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    for name in ("logits", "heads", "classes", "class_constants"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_eight_threads_do_eight_things(model: ViT, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_for(model)
    monkeypatch.setattr(inherent, "FIRST", images[0, 0].numel())  # a part an image where memory is short
    expected = {name: work(model, images) for name, work in WORK.items()}

    def work_on(first: int) -> None:
        names = [*WORK][first:] + [*WORK][:first]
        for name in names * 2:
            assert_same(WORK[name](model, images), expected[name])
            assert not is_frozen()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work_on, range(8)))


def resident() -> int:
    """Bytes of this process in memory, of which autograd's graphs are a part that Python does not see."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(found), Tensor) for found in gc.get_objects())


@pytest.mark.slow
def test_nothing_piles_up(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy("bcos_vit_digits", depth=1, num_classes=3)
    model.blocks[0].mlp.activation = nn.Tanh()  # not linear, but keeps its own result for backward: a cycle, maybe
    images = images_for(model, 2)

    def calls(count: int) -> None:
        for _ in range(count // len(WORK)):
            for work in WORK.values():
                work(model, images)

    calls(40)
    tensors = live_tensors()
    calls(1000)
    assert live_tensors() == tensors
    monkeypatch.setattr(inherent, "FIRST", images[0, 0].numel())  # an image a part
    calls(200)
    assert live_tensors() == tensors
    tracemalloc.start()
    calls(24)
    before = tracemalloc.get_traced_memory()[0]
    calls(48)
    gc.collect()
    assert tracemalloc.get_traced_memory()[0] - before < 20_000
    tracemalloc.stop()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts the memory of a process as Linux tells it")
@pytest.mark.parametrize("name", WORK)
def test_no_graph_is_left_in_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph of these images takes some megabytes, so that a few that were left would show."""
    model = toy("bcos_vit_digits", num_classes=3)
    images = images_for(model, 48)
    monkeypatch.setattr(inherent, "FIRST", 40 * images[0, 0].numel())  # and the others singly or together
    for _ in range(3):
        WORK[name](model, images)
    before = resident()
    gc.disable()  # nothing waits for the collector of cycles
    try:
        for _ in range(15):
            WORK[name](model, images)
    finally:
        gc.enable()
    assert resident() - before < 12 * 2**20
