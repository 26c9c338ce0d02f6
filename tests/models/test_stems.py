"""What a spec says of its stem and of its outputs, in models and in their files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bcos_vit import ViT, ViTSpec, create_model
from bcos_vit.layers import Blur, stem_strides
from bcos_vit.models.weights import save_model
from toys import images_for, random_images, toy, toy_spec

SMALL: dict[str, Any] = {
    "family": "bcos",
    "image_size": 16,
    "patch_size": 4,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "mlp_width": 24,
    "num_classes": 3,
}


def test_stem_halves_the_image_where_channels_grow() -> None:
    assert stem_strides(6, (24, 48, 96, 192)) == (2, 2, 2, 2)
    assert stem_strides(6, (64, 128, 128, 256, 256, 512)) == (2, 2, 1, 2, 1, 2)
    assert stem_strides(6, (6, 4, 5)) == (1, 1, 2)
    assert stem_strides(6, ()) == ()


def test_strides_of_a_stem() -> None:
    assert ViTSpec(**SMALL, stem=(8, 12)).strides == (2, 2)
    assert ViTSpec(**SMALL).strides == ()
    spec = ViTSpec(**SMALL, stem=[8, 12, 12], stem_strides=[1, 2, 1])
    assert (spec.stem_strides, spec.strides, spec.stem_stride) == ((1, 2, 1), (1, 2, 1), 2)
    again = ViTSpec(**json.loads(json.dumps(dataclasses.asdict(spec))))
    assert again == spec
    assert hash(again) == hash(spec)
    model = ViT(spec)
    assert [stage.conv.geometry.stride for stage in model.tokens.stem] == [(1, 1), (2, 2), (1, 1)]
    assert model.tokens.patch == 2
    assert model(random_images(2, 16)).shape == (2, 3)


@pytest.mark.parametrize("family", ["bcos", "standard"])
def test_a_blurred_model_has_the_weights_of_a_strided_one(family: str) -> None:
    fields = SMALL | {"family": family, "stem": (8, 8, 12)}
    strided, blurred = ViT(ViTSpec(**fields)), ViT(ViTSpec(**fields, downsample="blurred"))
    assert [isinstance(stage.blur, Blur) for stage in blurred.tokens.stem] == [True, False, True]
    assert not any(isinstance(module, Blur) for module in strided.modules())
    blurred.load_state_dict(strided.state_dict())
    images = random_images(2, 16)
    assert not torch.allclose(blurred(images), strided(images))
    for stage in blurred.tokens.stem:
        stage.blur = torch.nn.Identity()
    assert torch.equal(blurred(images), strided(images))


def test_files_keep_what_a_stem_and_its_outputs_are(tmp_path: Path) -> None:
    fields = {"downsample": "blurred", "stem_strides": (2, 1, 2, 1), "patch_size": 4, "outputs": "sigmoid"}
    model = toy("standard_vitc_ti_patch1_14", **fields)
    save_model(model, tmp_path / "model.safetensors")
    again = create_model(tmp_path / "model.safetensors", stem_strides=[2, 1, 2, 1], downsample="blurred")
    assert again.spec == model.spec
    images = images_for(model)
    assert torch.equal(again(images), model(images))
    assert create_model(tmp_path / "model.safetensors", downsample="strided").spec.downsample == "strided"


def test_a_spec_of_before_there_were_blurs_is_read_as_strided() -> None:
    spec = toy_spec("bcos_vitc_ti_patch1_14")
    old = dataclasses.asdict(spec)
    for name in ("downsample", "stem_strides", "outputs"):
        del old[name]
    assert ViTSpec(**old) == spec


# --- probabilities ---


@pytest.mark.parametrize(
    ("family", "outputs", "found"),
    [
        ("bcos", None, "sigmoid"),
        ("bcos", "sigmoid", "sigmoid"),
        ("standard", None, "softmax"),
        ("standard", "softmax", "softmax"),
        ("standard", "sigmoid", "sigmoid"),
    ],
)
def test_probabilities_are_what_the_model_was_trained_to_say(family: str, outputs: Any, found: str) -> None:
    model = ViT(ViTSpec(**SMALL | {"family": family}, outputs=outputs))
    assert model.spec.probability == found
    logits = torch.randn(4, 3)
    assert torch.equal(model.probabilities(logits), logits.sigmoid() if found == "sigmoid" else logits.softmax(-1))
    model.reset_classifier(5)
    assert model.spec.outputs == outputs
