"""Toys of every kind of model: the two families, with and without a stem or blurs, every position and head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bcos_vit import ViT
from toys import NAME, VITC, random_images, toy

_FAMILIES = {
    "bcos": NAME,
    "bcos-stem": VITC,
    "standard": NAME.replace("bcos", "standard"),
    "standard-stem": VITC.replace("bcos", "standard"),
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    f"{family}-{position}-{head}": (name, {"position": position, "head": head})
    for family, name in _FAMILIES.items()
    for position in ("sincos", "rope", "prior", "none")
    for head in ("pool", "tokens")
}
KINDS |= {
    "bcos-values-maxout": (NAME, {"value": "bcos", "max_out": 2, "b": 1.5}),
    "bcos-stem-maxout": (VITC, {"stem_max_out": 2, "max_out": 3, "head": "tokens"}),
    # Two strides of four, so that images are small.
    "bcos-stem-blurred": (
        VITC,
        {"downsample": "blurred", "stem_strides": (1, 2, 1, 2), "patch_size": 4, "image_size": 12, "position": "rope"},
    ),
    "bcos-scaled": (NAME, {"logit_scale": 2.5, "logit_bias": -0.75}),
    "standard-scaled": (_FAMILIES["standard"], {"logit_scale": 0.5, "logit_bias": 0.25}),
    "bcos-digits": ("bcos_vit_digits", {}),
    "standard-digits": ("standard_vit_digits", {}),
}
"""Name in the zoo and fields of the spec by the name of the kind."""


def kind(name: str, *, dtype: torch.dtype = torch.float32, seed: int = 0, **fields: Any) -> ViT:
    """The seeded toy of a kind."""
    model, own = KINDS[name]
    return toy(model, dtype=dtype, seed=seed, **(own | fields))


def wide_images(model: ViT, batch: int = 2, *, seed: int = 0) -> Tensor:
    """Images 2 patches high and 4 wide; square ones for a model that takes no others."""
    spec = model.spec
    size = (2 * spec.patch_size, 4 * spec.patch_size)
    prior = spec.position == "prior"
    dtype = model.head.classify.weight.dtype
    return random_images(batch, spec.image_size if prior else size, dtype=dtype, seed=seed)
