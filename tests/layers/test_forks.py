"""Models in forked processes: torch's threads do not survive a fork, and nothing waits for them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import bcos_vit
from bcos_vit.models.vit import ViT
from toys import images_for, toy

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")]
FORK = multiprocessing.get_context("fork")
VERBS: dict[str, Callable[[ViT, Tensor], Any]] = {
    "explain": lambda model, images: bcos_vit.explain(model, images).check().contributions,
    "anatomy": lambda model, images: bcos_vit.anatomy(model, images).check().logits,
    "collapse": lambda model, images: bcos_vit.collapse(model, images).matrix(),
    "predict": lambda model, images: bcos_vit.predict(model, images).logits,
    "forward": lambda model, images: model(images).detach(),
}


@pytest.fixture
def computed() -> Iterator[tuple[ViT, Tensor]]:
    """A model and images that this process has computed with, on two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model = bcos_vit.create_model("bcos_vit_digits", pretrained=True)
        images = images_for(model, 16)
        bcos_vit.explain(model, images)
        yield model, images
    finally:
        torch.set_num_threads(threads)


def succeeds_in_a_fork(work: Callable[[], None]) -> bool:
    """Whether ``work`` ends without an error in a forked process; a hang is an end by force."""
    process = FORK.Process(target=work)
    process.start()
    process.join(60)
    if hung := process.exitcode is None:
        process.kill()
        process.join()
    return not hung and process.exitcode == 0


@pytest.mark.parametrize("verb", VERBS)
def test_a_fork_computes_what_its_parent_does(computed: tuple[ViT, Tensor], verb: str) -> None:
    expected = VERBS[verb](*computed)

    def work() -> None:
        torch.testing.assert_close(VERBS[verb](*computed), expected)

    assert succeeds_in_a_fork(work)
    assert torch.get_num_threads() == 2  # the parent keeps its threads


def test_a_conventional_model_and_a_fork_of_a_fork(computed: tuple[ViT, Tensor]) -> None:
    twin = toy("standard_vit_digits")
    images = images_for(twin, 16)
    expected = bcos_vit.predict(twin, images).logits

    def work() -> None:
        torch.testing.assert_close(bcos_vit.predict(twin, images).logits, expected)
        assert succeeds_in_a_fork(lambda: bcos_vit.explain(*computed).check() and None)

    assert succeeds_in_a_fork(work)


def test_a_model_can_learn_in_a_fork(computed: tuple[ViT, Tensor]) -> None:
    model, images = computed

    def work() -> None:
        model.train()(images).sum().backward()

    assert succeeds_in_a_fork(work)


def test_a_fork_by_the_system_itself(computed: tuple[ViT, Tensor]) -> None:
    """As servers do that load the application before they fork their workers."""
    if (child := os.fork()) == 0:
        threads = torch.get_num_threads()
        os._exit(0 if threads == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_workers_of_a_loader_go_on_as_they_did(computed: tuple[ViT, Tensor]) -> None:
    _, images = computed
    loaded = torch.cat(list(DataLoader(list(images), batch_size=4, num_workers=2, multiprocessing_context="fork")))
    assert torch.equal(loaded, images)


@pytest.mark.slow
def test_a_process_that_was_not_forked_explains(computed: tuple[ViT, Tensor]) -> None:
    """The way to more threads: it starts anew, and gets the model by pickling."""
    model, images = computed
    with torch.multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(bcos_vit.explain, (model, images))
    torch.testing.assert_close(found.contributions, bcos_vit.explain(model, images).contributions)
