"""What a process that has computed with a model can do in its forks; run as ``python tests/forks.py NAME``.

A process of its own for each, since torch refuses gradients in forks of a process that has compiled certain programs.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

import bcos_vit
from bcos_vit.models.vit import ViT
from toys import images_for, toy

FORK = multiprocessing.get_context("fork")
VERBS: dict[str, Callable[[ViT, Tensor], Any]] = {
    "explain": lambda model, images: bcos_vit.explain(model, images).check().contributions,
    "anatomy": lambda model, images: bcos_vit.anatomy(model, images).check().logits,
    "collapse": lambda model, images: bcos_vit.collapse(model, images).matrix(),
    "predict": lambda model, images: bcos_vit.predict(model, images).logits,
    "forward": lambda model, images: model(images).detach(),
}


def succeeds_in_a_fork(work: Callable[[], None]) -> bool:
    """Whether ``work`` ends without an error in a forked process; a hang is an end by force."""
    process = FORK.Process(target=work)
    process.start()
    process.join(60)
    if hung := process.exitcode is None:
        process.kill()
        process.join()
    return not hung and process.exitcode == 0


def computes_what_its_parent_does(model: ViT, images: Tensor, verb: str) -> None:
    expected = VERBS[verb](model, images)

    def work() -> None:
        torch.testing.assert_close(VERBS[verb](model, images), expected)

    assert succeeds_in_a_fork(work)
    assert torch.get_num_threads() == 2  # the parent keeps its threads


def a_conventional_model_and_a_fork_of_a_fork(model: ViT, images: Tensor) -> None:
    twin = toy("standard_vit_digits")
    others = images_for(twin, 16)
    expected = bcos_vit.predict(twin, others).logits

    def work() -> None:
        torch.testing.assert_close(bcos_vit.predict(twin, others).logits, expected)
        assert succeeds_in_a_fork(lambda: bcos_vit.explain(model, images).check() and None)

    assert succeeds_in_a_fork(work)


def a_model_can_learn(model: ViT, images: Tensor) -> None:
    def work() -> None:
        model.train()(images).sum().backward()

    assert succeeds_in_a_fork(work)


def a_fork_by_the_system_itself(model: ViT, images: Tensor) -> None:
    """As servers do that load the application before they fork their workers."""
    if (child := os.fork()) == 0:
        os._exit(0 if torch.get_num_threads() == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def workers_of_a_loader_go_on_as_they_did(model: ViT, images: Tensor) -> None:
    loaded = torch.cat(list(DataLoader(list(images), batch_size=4, num_workers=2, multiprocessing_context="fork")))
    assert torch.equal(loaded, images)


OTHERS: dict[str, Callable[[ViT, Tensor], None]] = {
    work.__name__: work
    for work in (
        a_conventional_model_and_a_fork_of_a_fork,
        a_model_can_learn,
        a_fork_by_the_system_itself,
        workers_of_a_loader_go_on_as_they_did,
    )
}


def main(name: str) -> None:
    """Compute on two threads, then do in forks what ``name`` says."""
    torch.set_num_threads(2)
    model = bcos_vit.create_model("bcos_vit_digits", pretrained=True)
    images = images_for(model, 16)
    bcos_vit.explain(model, images)
    if name in VERBS:
        computes_what_its_parent_does(model, images, name)
    else:
        OTHERS[name](model, images)


if __name__ == "__main__":
    main(sys.argv[1])
