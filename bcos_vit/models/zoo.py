"""The zoo: every architecture by name, with its card, and the one call that builds it."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchvision.models import ResNet50_Weights
from torchvision.transforms import InterpolationMode, v2

from bcos_vit.checks import nearest, reject_unknown
from bcos_vit.models.shipped import SHIPPED, shipped_card, shipped_weights
from bcos_vit.models.spec import ViTSpec, spec_fields
from bcos_vit.models.vit import ViT
from bcos_vit.models.weights import is_weights_file, load_model

IMAGENET = tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
"""The names of ImageNet's 1,000 classes."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What there is to know of a name of the zoo."""

    spec: ViTSpec
    """What the model is."""
    class_names: tuple[str, ...]
    """The classes it is meant for."""
    file: str | None = None
    """The file that its trained weights come in; None, like all below, where there are none."""
    sha256_prefix: str | None = None
    """The first digits of the file's SHA-256, or all 64."""
    source: str | None = None
    """``"shipped"``, or the address of the folder that holds the file."""
    licence: str | None = None
    """Terms of the weights and of the data that they were trained on."""
    top1: float | None = None
    """Top-1 accuracy in percent, as measured by the source."""
    top5: float | None = None
    """Top-5 accuracy in percent."""
    recipe: str | None = None
    """How they were trained: a command of this repository, or a paper."""


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


RELEASE = "https://github.com/B-cos/B-cos-v2/releases/download/v0.0.1-weights"
"""The address of the weights published with B-cos v2 (arXiv 2306.10898)."""
_IMAGENET_TERMS = "derived from ImageNet, whose terms allow non-commercial research only"
# name: first digits of the file's SHA-256, top-1 and top-5 accuracy on ImageNet as the release states them
_PUBLISHED = {
    "bcos_simple_vit_ti_patch16_224": ("4b0824b1c1", 59.96, 81.838),
    "bcos_simple_vit_s_patch16_224": ("75e99d1f73", 69.246, 88.096),
    "bcos_simple_vit_b_patch16_224": ("1fc4750806", 74.408, 91.156),
    "bcos_simple_vit_l_patch16_224": ("9613b2ad0a", 75.06, 91.378),
    "bcos_vitc_ti_patch1_14": ("ddd6193a77", 67.26, 86.774),
    "bcos_vitc_s_patch1_14": ("cf55c88f0c", 74.504, 91.288),
    "bcos_vitc_b_patch1_14": ("a13c46397b", 77.152, 92.926),
    "bcos_vitc_l_patch1_14": ("8739e18b8d", 77.782, 92.966),
    "standard_simple_vit_ti_patch16_224": ("2ae8c65a39", 70.23, 89.38),
    "standard_simple_vit_s_patch16_224": ("f2934fcdcf", 74.47, 91.226),
    "standard_simple_vit_b_patch16_224": ("87074200ed", 75.3, 91.026),
    "standard_simple_vit_l_patch16_224": ("62dc536e03", 75.71, 90.05),
    "standard_vitc_ti_patch1_14": ("a5d6bded37", 72.59, 90.788),
    "standard_vitc_s_patch1_14": ("34ecd7288e", 75.756, 91.994),
    "standard_vitc_b_patch1_14": ("4d374b0220", 76.79, 92.024),
    "standard_vitc_l_patch1_14": ("560e48f246", 77.866, 92.298),
}


def _imagenet_card(name: str, spec: ViTSpec) -> Card:
    if name not in _PUBLISHED:
        return Card(spec=spec, class_names=IMAGENET)
    prefix, top1, top5 = _PUBLISHED[name]
    return Card(
        spec=spec,
        class_names=IMAGENET,
        file=f"{name}-{prefix}.pth",
        sha256_prefix=prefix,
        source=RELEASE,
        licence=_IMAGENET_TERMS,
        top1=top1,
        top5=top5,
        recipe="B-cos v2, arXiv 2306.10898: 90 epochs of ImageNet-1k",
    )


def _digits_card(name: str, spec: ViTSpec) -> Card:
    names = tuple(str(digit) for digit in range(10))
    kept = shipped_card(name)
    if kept is None:
        return Card(spec=spec, class_names=names)
    accuracy = kept["results"]["accuracy"]
    return Card(
        spec=spec,
        class_names=names,
        file=f"{name}.safetensors",
        sha256_prefix=kept["sha256"],
        source="shipped",
        licence=f"weights Apache-2.0; data: {kept['data_licence']}",
        top1=100 * accuracy["top1"],
        top5=100 * accuracy["top5"],
        recipe=kept["command"],
    )


CARDS: dict[str, Card] = {name: _imagenet_card(name, spec) for name, spec in _imagenet_specs().items()} | {
    name: _digits_card(name, spec) for name, spec in _digits_specs().items()
}
"""Every name of the zoo."""


def list_models(pattern: str = "*") -> list[str]:
    """Names of the zoo that match a shell pattern, sorted.

    >>> list_models("*_digits")
    ['bcos_vit_digits', 'standard_vit_digits']
    """
    return sorted(fnmatch.filter(CARDS, pattern))


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


def create_model(name: str | os.PathLike[str], *, pretrained: bool = False, **overrides: Any) -> ViT:
    """Build a model of the zoo, or read a trained one from a file.

    >>> model = create_model("bcos_vit_digits", pretrained=True)
    >>> model.spec.position, model.class_names[:3]
    ('rope', ('0', '1', '2'))
    >>> create_model("bcos_vitc_ti_patch1_14", num_classes=37).spec.bias  # log(1/36)
    -3.58...

    Parameters
    ----------
    name
        A name of :func:`list_models`, or the path of a ``.safetensors`` file made by ``save_model`` or of a ``.ckpt``
        file of a training run, which hold spec and weights.
    pretrained
        Load trained weights, which come with ``bcos_vit_digits`` and ``standard_vit_digits``. Asking another name for
        them is an error, never random weights. A file is trained anyway.
    overrides
        Any field of :class:`ViTSpec`, such as ``num_classes=10``. Trained weights fit their own spec only.

    Returns
    -------
    ViT
        In evaluation mode, with ``spec``, ``transform`` and ``class_names``.

    Raises
    ------
    ValueError
        For an unknown name, with the nearest one, an impossible spec, or a file that is not what it should be.
    TypeError
        For an unknown override, with the nearest field, one that trained weights do not fit, or a name that is
        neither text nor path.
    FileNotFoundError
        For a path that is no file.
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"a model is asked for by its name or its file's path, found {name!r}")
    reject_unknown("override", overrides, spec_fields())
    if is_weights_file(name):
        model, names = load_model(Path(name))
        _require_same(model.spec, overrides, os.fspath(name))
    else:
        name = os.fspath(name)
        if name not in CARDS:
            raise ValueError(f"no model is named {name!r}{nearest(name, CARDS)}")
        card = CARDS[name]
        if pretrained:
            model, names = load_model(_weights_of(name, card))
            _require_same(model.spec, overrides, f"the trained {name}")
        else:
            model = ViT(dataclasses.replace(card.spec, **overrides))
            names = card.class_names if model.spec.num_classes == card.spec.num_classes else None
    model.class_names = names
    model.transform = preprocessing(model.spec.image_size)
    return model.eval()


def _weights_of(name: str, card: Card) -> Path:
    if name in SHIPPED:
        return shipped_weights(name)
    known = "its published weights are not loaded by name yet" if card.file else "nobody has trained it yet"
    raise ValueError(
        f"{name} has no trained weights in this release ({known}): train it, or take random weights, with "
        "pretrained=False (evaluate.py: model.pretrained=false; bcos-vit: --random-weights 0)"
    )


def _require_same(spec: ViTSpec, overrides: dict[str, Any], owner: str) -> None:
    for field, value in overrides.items():
        if getattr(spec, field) != value:
            raise TypeError(
                f"{owner} holds its own spec and weights, with {field} {getattr(spec, field)!r}: drop {field}"
            )
