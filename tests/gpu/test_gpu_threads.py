"""Several threads, each on a stream of its own, explain with one model at once."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from bcos_vit import Explanation, TopK, explain
from bcos_vit.models.vit import ViT
from devices import DEVICE, IS_CUDA, exact, images_like, off, on_device

THREADS = 6


def stream() -> contextlib.AbstractContextManager[object]:
    """A stream of its own that waits for what this thread has asked for so far."""
    if not IS_CUDA:
        return contextlib.nullcontext()
    fresh = torch.cuda.Stream(DEVICE)
    fresh.wait_stream(torch.cuda.current_stream(DEVICE))
    return torch.cuda.stream(fresh)


def finish() -> None:
    if IS_CUDA:
        torch.cuda.current_stream(DEVICE).synchronize()


@pytest.fixture(scope="module")
def model() -> ViT:
    return on_device(exact("stem"))


@pytest.fixture(scope="module")
def expected(model: ViT) -> list[tuple[Tensor, Explanation]]:
    batches = [images_like(model, seed=seed) for seed in range(THREADS)]
    found = [(batch, explain(model, batch, TopK(2))) for batch in batches]
    finish()
    return found


def work(model: ViT, images: Tensor, right: Explanation) -> None:
    with stream():
        for _ in range(5):
            e = explain(model, images, TopK(2)).check()
            assert off(e.contributions, right.contributions) <= 1e-5
            assert off(e.logit, right.logit) <= 1e-5
        finish()


def test_a_stream_that_is_not_the_default(model: ViT, expected: list[tuple[Tensor, Explanation]]) -> None:
    work(model, *expected[0])


def test_threads_on_their_own_streams(model: ViT, expected: list[tuple[Tensor, Explanation]]) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(work, model, *pair) for pair in expected]:
            done.result()


def test_learning_between_explanations_of_other_threads(model: ViT, expected: list[tuple[Tensor, Explanation]]) -> None:
    images, _ = expected[0]

    def gradient() -> Tensor:
        with stream():
            weight = model.blocks[0].attention.query_key.weight  # which is held still while explaining
            (found,) = torch.autograd.grad(model(images).square().sum(), weight)
            finish()
        return found

    right = gradient()
    with ThreadPoolExecutor(THREADS) as pool:
        explaining = [pool.submit(work, model, *pair) for pair in expected]
        learning = [pool.submit(gradient) for _ in range(THREADS)]
        for done in explaining:
            done.result()
        for found in learning:
            assert off(found.result(), right) <= 1e-2  # in TF32 or not, as others explain meanwhile
