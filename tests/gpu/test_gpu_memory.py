"""Explanations in parts stay within the memory that they are given."""

from __future__ import annotations

import pytest
import torch

from bcos_vit import TopK, create_model, explain
from bcos_vit.cli.self_test import MIB, PARTS, images_for, peak
from bcos_vit.models.vit import ViT
from devices import DEVICE, IS_CUDA

pytestmark = pytest.mark.skipif(not IS_CUDA, reason="torch counts the memory of CUDA devices only")


@pytest.fixture
def model() -> ViT:
    return create_model("bcos_simple_vit_ti_patch16_224", depth=4, num_classes=10).eval().to(DEVICE)


@pytest.mark.parametrize("memory", [256 * MIB, 1024 * MIB])
def test_a_large_batch(model: ViT, memory: int) -> None:
    assert peak(model, images_for(model, 128), memory) <= PARTS


def test_a_larger_bound_takes_more_images_at_once(model: ViT) -> None:
    images = images_for(model, 128)
    small, large = (memory * peak(model, images, memory) for memory in (256 * MIB, 1024 * MIB))
    assert large > 1.5 * small


def test_nothing_is_left_behind(model: ViT) -> None:
    images = images_for(model, 8)
    explain(model, images, TopK(2))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(5):
        explain(model, images, TopK(2))
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before
