"""The device that ``tests/gpu`` runs on, and models for it, small but as wide as the zoo's."""

from __future__ import annotations

import copy
import os

import torch
from torch import Tensor

from bcos_vit import create_model
from bcos_vit.models.vit import ViT
from toys import random_images

VARIABLE = "BCOS_VIT_TEST_DEVICE"
"""Names another device than the first GPU. On ``cpu`` it is seen whether the tests themselves are right."""

DEVICE = torch.device(os.environ.get(VARIABLE) or "cuda")
IS_CUDA = DEVICE.type == "cuda"
MISSING = "no CUDA device is there" if IS_CUDA and not torch.cuda.is_available() else ""
"""Why the tests cannot run; empty if they can."""

KINDS = {
    "sincos": ("bcos_simple_vit_ti_patch16_224", {}),
    "rope": ("bcos_simple_vit_ti_patch16_224", {"position": "rope", "head": "tokens"}),
    "prior": ("bcos_simple_vit_ti_patch16_224", {"position": "prior", "value": "bcos"}),
    "stem": ("bcos_vitc_ti_patch1_14", {}),
    "max-out": ("bcos_vitc_ti_rope_patch1_14", {"max_out": 2, "stem_max_out": 2, "b": 1.5}),
}
SIZE = 64


def exact(kind: str) -> ViT:
    """A model of two blocks in float64 on the CPU, the same in every process; its logits have no bias to hide behind.

    Its weights are numbers of float32, so that a copy in float32 is the same model.
    """
    name, fields = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_model(name, image_size=SIZE, depth=2, num_classes=10, logit_bias=0, **fields)
    return model.eval().double()


def on_device(model: ViT, dtype: torch.dtype = torch.float32) -> ViT:
    """A copy in ``dtype`` on the device that is tested."""
    return copy.deepcopy(model).to(DEVICE, dtype)


def images_like(model: ViT, batch: int = 4, *, seed: int = 0) -> Tensor:
    """(batch, 3, 64, 64), on the device and in the dtype of ``model``; numbers of bfloat16, which all dtypes hold."""
    like = next(model.parameters())
    return random_images(batch, model.spec.image_size, seed=seed).bfloat16().to(like)


def off(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest magnitude expected; infinite for another shape or NaN."""
    assert found.shape == expected.shape
    found, expected = (t.detach().double().cpu() for t in (found, expected))
    worst = float((found - expected).abs().max() / expected.abs().max())
    return worst if worst == worst else float("inf")
