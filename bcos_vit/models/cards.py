"""What there is to know of every name of the zoo: its architecture, and its trained weights if there are any."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.models import ResNet50_Weights

from bcos_vit.models.shipped import shipped_card
from bcos_vit.models.spec import ViTSpec
from bcos_vit.models.vit import ViT
from bcos_vit.preprocessing import preprocessing_in_words

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

    @property
    def preprocessing(self) -> str:
        """How a photo becomes the image that the model is meant for, in words; ``model.transform`` does it."""
        return preprocessing_in_words(self.spec.image_size)


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
        for family in ("bcos", "standard"):
            strided = specs[f"{family}_vitc_{size}_patch1_14"]
            smooth = dataclasses.replace(strided, position="rope", downsample="blurred")
            specs[f"{family}_vitc_{size}_smooth_patch1_14"] = smooth
    return specs


def _shipped_specs() -> dict[str, ViTSpec]:
    digits: dict[str, Any] = dict(width=96, depth=4, heads=3, mlp_width=384, image_size=8, patch_size=2, num_classes=10)
    shapes: dict[str, Any] = dict(
        width=64, depth=2, heads=2, mlp_width=128, image_size=32, patch_size=4, num_classes=10
    )
    shapes |= dict(stem=(16, 32, 64, 64, 64), stem_strides=(2, 1, 2, 1, 1), position="rope", head="tokens")
    return {
        "bcos_vit_digits": ViTSpec(family="bcos", position="rope", **digits),
        "standard_vit_digits": ViTSpec(family="standard", position="sincos", **digits),
        "bcos_vit_shapes": ViTSpec(family="bcos", b=2.5, stem_max_out=2, logit_scale=8, **shapes),
        "standard_vit_shapes": ViTSpec(family="standard", outputs="sigmoid", **shapes),
    }


DIGITS = tuple(str(digit) for digit in range(10))
SHAPES = ("disk", "square", "triangle", "star", "ring", "cross", "hourglass", "crescent", "heart", "arrow")

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


def _shipped_card(name: str, spec: ViTSpec) -> Card:
    names = SHAPES if name.endswith("_shapes") else DIGITS
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
    name: _shipped_card(name, spec) for name, spec in _shipped_specs().items()
}
"""Every name of the zoo."""


def recognise(state: Mapping[str, Tensor]) -> ViTSpec | None:
    """The spec of the published architecture that has tensors of these names (ours) and shapes, whatever its classes.

    None if there is no such one. The heads of attention, which no shape shows, are those of the architecture.
    """
    shapes = {name: tensor.shape for name, tensor in state.items()}
    head = shapes.get("head.classify.weight", torch.Size())
    for card in CARDS.values():
        if card.spec.position == "sincos" and head[1:] == (card.spec.width,) and head[0] > 1:
            spec = dataclasses.replace(card.spec, num_classes=head[0])
            if shapes == expected_shapes(spec):
                return spec
    return None


def expected_shapes(spec: ViTSpec) -> dict[str, torch.Size]:
    """The names and shapes of the tensors of a model, of which none is made."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in ViT(spec).state_dict().items()}
