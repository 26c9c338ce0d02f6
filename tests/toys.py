"""Toy models: the zoo's architectures, as small as their structure allows, and random images for them; toy layers."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from bcos_vit.layers import BcosConv2d
from bcos_vit.models.spec import ViTSpec
from bcos_vit.models.vit import ViT
from bcos_vit.models.zoo import CARDS

NAME = "bcos_simple_vit_ti_patch16_224"
VITC = "bcos_vitc_ti_patch1_14"
"""The names of the zoo that the tests of explanations take where any would do."""

HEADS = {192: 2, 384: 3, 768: 4, 1024: 5}
"""Heads of a toy by the width of its model; a head has 8 channels, enough for rotary positions."""


def toy_spec(name: str, **overrides: Any) -> ViTSpec:
    """The spec of a zoo name with two blocks, a few channels, a 3 x 3 grid (digits: their own) and 5 classes."""
    spec = CARDS[name].spec
    heads = HEADS.get(spec.width, 2)
    # Ranks instead of channels: the stem grows where the model's grows, and from the first stage on (6 -> 8).
    levels = sorted(set(spec.stem))
    small: dict[str, Any] = {
        "stem": tuple(8 + 4 * levels.index(channels) for channels in spec.stem),
        "width": 8 * heads,
        "heads": heads,
        "mlp_width": 20 * heads,  # unlike any other width, so that mixed-up axes do not fit
        "depth": 2,
        "num_classes": 5,
    }
    if not name.endswith("_digits"):
        patch = spec.patch_size if spec.stem else 4  # a stem's stride is given by its growth
        small |= {"patch_size": patch, "image_size": 3 * patch}
    return dataclasses.replace(spec, **(small | overrides))


def toy(name: str, *, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: Any) -> ViT:
    """A seeded toy of a zoo name, in evaluation mode; ``overrides`` are fields of its spec."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = perturb_norms(ViT(toy_spec(name, **overrides)))
    return model.to(dtype).eval()


def perturb_norms(model: ViT) -> ViT:
    """Move every norm's weight away from one, and its bias from zero, so that swapped norms show."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
    return model


def random_images(
    batch: int, size: int | tuple[int, int], *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Tensor:
    """(batch, 3, H, W) RGB in [0, 1]: noise over a ramp, so that neither axis nor any channel is like another."""
    height, width = (size, size) if isinstance(size, int) else size
    noise = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ramp = torch.linspace(0, 1, height, dtype=torch.float64)[:, None] * torch.linspace(1, 0.3, width).double()
    return (0.5 * noise + 0.5 * ramp).to(dtype)


def images_for(model: ViT, batch: int = 3, *, seed: int = 0) -> Tensor:
    """Random images of the size and in the dtype of ``model``."""
    return random_images(batch, model.spec.image_size, dtype=model.head.classify.weight.dtype, seed=seed)


def deviation(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest expected magnitude; infinite for another shape or NaN."""
    if found.shape != expected.shape:
        return float("inf")
    worst = float((found - expected).detach().abs().max() / expected.detach().abs().max())
    return worst if worst == worst else float("inf")


# --- layers ---

GEOMETRIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "stem": {"stride": (2, 2), "padding": (1, 1)},
    "groups": {"padding": (1, 1), "groups": 2},
    "not-square": {"stride": (1, 2), "padding": (2, 0), "groups": 2},
}


def conv(b: float, max_out: int, geometry: str) -> BcosConv2d:
    return BcosConv2d(4, 4, (3, 2), **GEOMETRIES[geometry], b=b, max_out=max_out)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
