"""The zoo: every architecture by name, and the one call that builds it."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
from pathlib import Path
from typing import Any

import torch
from torchvision.models import ResNet50_Weights
from torchvision.transforms import InterpolationMode, v2

from bcos_vit.checks import nearest, reject_unknown
from bcos_vit.models.spec import ViTSpec, spec_fields
from bcos_vit.models.vit import ViT
from bcos_vit.models.weights import is_weights_file, load_model

# name: width, heads, MLP width, blocks of the simple ViT (one fewer with a stem), output channels of the stem
_SIZES = {
    "ti": (192, 3, 768, 12, (24, 48, 96, 192)),
    "s": (384, 6, 1536, 12, (48, 96, 192, 384)),
    "b": (768, 12, 3072, 12, (64, 128, 128, 256, 256, 512)),
    "l": (1024, 16, 4096, 14, (64, 128, 128, 256, 256, 512)),
}


def _imagenet_specs() -> dict[str, ViTSpec]:
    specs = {}
    for size, (width, heads, mlp_width, depth, stem) in _SIZES.items():
        for family, position in (("bcos", "sincos"), ("bcos", "rope"), ("standard", "sincos")):
            common: dict[str, Any] = dict(family=family, position=position, width=width, heads=heads)
            common |= dict(mlp_width=mlp_width, image_size=224, patch_size=16, num_classes=1000)
            rope = "_rope" if position == "rope" else ""
            specs[f"{family}_simple_vit_{size}{rope}_patch16_224"] = ViTSpec(**common, depth=depth)
            # "1 patch on a 14 x 14 map": the published name of 16-pixel patches whose stride lies in the stem
            specs[f"{family}_vitc_{size}{rope}_patch1_14"] = ViTSpec(**common, depth=depth - 1, stem=stem)
    return specs


def _digits_specs() -> dict[str, ViTSpec]:
    common: dict[str, Any] = dict(width=96, depth=4, heads=3, mlp_width=384, image_size=8, patch_size=2, num_classes=10)
    return {
        "bcos_vit_digits": ViTSpec(family="bcos", position="rope", **common),
        "standard_vit_digits": ViTSpec(family="standard", position="sincos", **common),
    }


SPECS: dict[str, ViTSpec] = _imagenet_specs() | _digits_specs()


def list_models(pattern: str = "*") -> list[str]:
    """Names of the zoo that match a shell pattern, sorted.

    >>> list_models("*_digits")
    ['bcos_vit_digits', 'standard_vit_digits']
    """
    return sorted(fnmatch.filter(SPECS, pattern))


def preprocessing(image_size: int) -> v2.Compose:
    """PIL image -> (3, image_size, image_size) RGB in [0, 1]: resize the shorter side bilinearly, crop the centre.

    The crop is 224 / 256 of the resized side, as for the published models; images below 64 pixels are too small to
    give any away and are resized whole.
    """
    resized = image_size if image_size < 64 else round(image_size * 256 / 224)
    return v2.Compose(
        [
            v2.RGB(),
            v2.Resize(resized, InterpolationMode.BILINEAR),
            v2.CenterCrop(image_size),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


def class_names(name: str) -> tuple[str, ...]:
    """The classes a model of the zoo is meant for: ImageNet's 1,000, or the ten digits."""
    if name.endswith("_digits"):
        return tuple(str(digit) for digit in range(10))
    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def create_model(name: str | os.PathLike[str], *, pretrained: bool = False, **overrides: Any) -> ViT:
    """Build a model of the zoo, or read one from a weights file of ours.

    Parameters
    ----------
    name
        A name of :func:`list_models`, or the path of a ``.safetensors`` file made by ``save_model``, which holds
        spec and weights and takes no overrides.
    pretrained
        Load trained weights. No name has any in this release; asking for them is an error, never random weights.
    overrides
        Any field of :class:`ViTSpec`, such as ``num_classes=10``.

    Returns
    -------
    ViT
        In evaluation mode, with ``spec``, ``transform`` and ``class_names``.

    Raises
    ------
    ValueError
        For an unknown name, with the nearest one, or an impossible spec.
    TypeError
        For an unknown override, with the nearest field, or a name that is neither text nor path.
    FileNotFoundError
        For a path that is no file.
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"a model is asked for by its name or its file's path, found {name!r}")
    if is_weights_file(name):
        if overrides or pretrained:
            given = ", ".join([*overrides, *(["pretrained"] if pretrained else [])])
            raise TypeError(f"{os.fspath(name)} holds its own spec and weights: drop {given}")
        model, names = load_model(Path(name))
    else:
        name = os.fspath(name)
        if name not in SPECS:
            raise ValueError(f"no model is named {name!r}{nearest(name, SPECS)}")
        reject_unknown("override", overrides, spec_fields())
        if pretrained:
            raise ValueError(f"{name} has no trained weights in this release: train it, or leave out pretrained=True")
        model = ViT(dataclasses.replace(SPECS[name], **overrides))
        names = class_names(name) if model.spec.num_classes == SPECS[name].num_classes else None
    model.class_names = names
    model.transform = preprocessing(model.spec.image_size)
    return model.eval()
