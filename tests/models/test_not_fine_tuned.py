"""Trained weights in a model of another spec: what is allowed, what is marked, and where the mark goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from bcos_vit import ViT, create_model, explain, save_model
from bcos_vit.models.about import not_fine_tuned, trained
from toys import VITC, images_for, toy

ABOUT = {"name": "mine", "licence": "for research", "results": {"top1": 0.9}, "stated": {"top1": 90.0}}
SAID = 'not fine-tuned: the weights were trained with downsample "strided", not "blurred"'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A strided model that has been trained, let us say."""
    model = toy(VITC)
    model.class_names, model.about = tuple("abcde"), ABOUT
    save_model(model, tmp_path / "strided.safetensors")
    return tmp_path / "strided.safetensors"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What has been logged of weights that are not fine-tuned."""
    return [record.message for record in caplog.records if "not fine-tuned" in record.message]


@pytest.mark.parametrize(
    ("fields", "before"),
    [
        ({"downsample": "blurred"}, {"downsample": "strided"}),
        ({"position": "rope"}, {"position": "sincos"}),
        ({"head": "tokens", "b": 1.5}, {"head": "pool", "b": 2}),
        ({"value": "bcos"}, {"value": "plain"}),
        ({"heads": 1}, {"heads": 2}),
        ({"logit_scale": 2.0, "logit_bias": -1.0}, {"logit_scale": 1, "logit_bias": toy(VITC).spec.bias}),
        (
            {"stem_strides": [2, 2, 2, 1], "patch_size": 8, "image_size": 48},
            {"stem_strides": [2] * 4, "patch_size": 16},
        ),
    ],
    ids=str,
)
def test_fields_that_change_no_shape(
    fields: dict[str, Any], before: dict[str, Any], file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = create_model(file, **fields)
    assert model.about == {"name": "mine", "licence": "for research", "not_fine_tuned": before}
    (warned,) = warnings(caplog)
    assert warned.startswith(f"{file}: not fine-tuned: the weights were trained with ")
    assert all(f"{name} " in warned for name in before)
    weights = toy(VITC).state_dict()
    assert list(model.state_dict()) == list(weights)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())
    like = toy(VITC, **fields)
    like.load_state_dict(weights)
    images = images_for(model)
    assert torch.equal(model(images), like(images))
    assert not torch.equal(model(images), create_model(file)(images))
    assert model.class_names == tuple("abcde")
    assert not model.training
    assert all(p.requires_grad for p in model.parameters())  # it is to learn
    explain(model, images).check()
    assert len(warnings(caplog)) == 1  # once, not with every call


@pytest.mark.parametrize(
    "fields",
    [
        *({"image_size": 64}, {"num_classes": 3}, {"num_classes": 3, "logit_bias": -1.0}, {"downsample": "strided"}),
        *({"outputs": "sigmoid"}, {"stem_strides": (2, 2, 2, 2)}, {"logit_bias": toy(VITC).spec.bias}),
    ],
    ids=str,
)
def test_what_makes_no_other_model_is_not_marked(
    fields: dict[str, Any], file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = create_model(file, **fields)
    assert "not_fine_tuned" not in model.about
    assert not_fine_tuned(model.about, model.spec) is None
    assert not warnings(caplog)


def test_the_shipped_models_can_be_switched(caplog: pytest.LogCaptureFixture) -> None:
    model = create_model("bcos_vit_digits", pretrained=True, position="none")
    assert model.about["not_fine_tuned"] == {"position": "rope"}
    assert len(warnings(caplog)) == 1
    with pytest.raises(ValueError, match="downsample 'blurred' needs a stem convolution with stride 2"):
        create_model("bcos_vit_digits", pretrained=True, downsample="blurred")


def test_an_untrained_model_is_not_marked(caplog: pytest.LogCaptureFixture) -> None:
    assert create_model(VITC, downsample="blurred", depth=1).about == {}
    assert not warnings(caplog)


def test_files_keep_the_mark_until_the_field_is_changed_back(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = file.with_name("switched.safetensors")
    save_model(create_model(file, downsample="blurred"), path)
    caplog.clear()
    again = create_model(path)
    assert again.about["not_fine_tuned"] == {"downsample": "strided"}
    assert [f"{path.name}: {SAID}" in said for said in warnings(caplog)] == [True]
    twice = create_model(path, position="rope")
    assert twice.about["not_fine_tuned"] == {"downsample": "strided", "position": "sincos"}
    back = create_model(path, downsample="strided")
    assert "not_fine_tuned" not in back.about
    assert torch.equal(back(images_for(back)), create_model(file)(images_for(back)))


def test_a_new_head_does_not_take_the_mark_away(file: Path) -> None:
    model = create_model(file, num_classes=3, downsample="blurred")
    assert model.about["not_fine_tuned"] == {"downsample": "strided"}
    model.reset_classifier(4)
    assert model.about["not_fine_tuned"] == {"downsample": "strided"}
    assert model.about["derived_from"] == {"name": "mine"}


def test_shared_models_and_their_cards_say_so(file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    create_model(file, downsample="blurred").save_pretrained(tmp_path / "shared")
    text = ModelCard.load(tmp_path / "shared" / "README.md").text
    assert f"**N{SAID[1:]}.** Train the model before you believe its outputs." in text
    assert "90" not in text  # what was measured of another model
    caplog.clear()
    assert ViT.from_pretrained(tmp_path / "shared").about["not_fine_tuned"] == {"downsample": "strided"}
    assert len(warnings(caplog)) == 1
    create_model(file).save_pretrained(tmp_path / "shared")
    assert "fine-tuned" not in ModelCard.load(tmp_path / "shared" / "README.md").text
    switched = ViT.from_pretrained(tmp_path / "shared", downsample="blurred")
    assert switched.about["not_fine_tuned"] == {"downsample": "strided"}


def test_training_turns_the_mark_into_history(file: Path) -> None:
    about = create_model(file, downsample="blurred").about
    history = {"name": "mine", "trained_with": {"downsample": "strided"}}
    assert trained(about) == {"derived_from": history, "licence": "for research"}
    assert trained({"not_fine_tuned": {"b": 2}}) == {"derived_from": {"trained_with": {"b": 2}}}
    assert trained({"not_fine_tuned": {"b": 2}, "derived_from": "x"}) == {"derived_from": {"trained_with": {"b": 2}}}
    assert trained({}) == {}


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ("yes", "not fine-tuned: the weights were trained in another model"),
        ({"colour": "red"}, "not fine-tuned: the weights were trained in another model"),
        (["downsample"], "not fine-tuned: the weights were trained in another model"),
        ({"b": 1.5, "colour": "red"}, "not fine-tuned: the weights were trained with b 1.5, not 2"),
        ({"position": "a\nb"}, r'not fine-tuned: the weights were trained with position "a\nb", not "sincos"'),
        ({}, None),
        (None, None),
    ],
    ids=str,
)
def test_marks_that_others_have_written(
    mark: Any, said: str | None, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_model(toy(VITC), file, about={"not_fine_tuned": mark})
    model = create_model(file)
    assert not_fine_tuned(model.about, model.spec) == said
    assert len(warnings(caplog)) == (said is not None)
    larger = create_model(file, image_size=64)
    assert larger.about.get("not_fine_tuned") == (mark or None)
    long = not_fine_tuned({"not_fine_tuned": {"position": "x" * 10_000}}, model.spec)
    assert long is not None
    assert len(long) < 200
    assert json.dumps(model.about) is not None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"image_size": 64, "depth": 3}, "depth 2: drop depth"),
        ({"downsample": "blurred", "width": 32}, "width 16: drop width"),
        ({"stem_strides": (2, 2, 2, 1)}, r"stem_strides None: drop stem_strides"),
        ({"family": "standard"}, "family 'bcos': drop family"),
        ({"position": "prior"}, "position 'sincos': drop position"),
    ],
    ids=str,
)
def test_the_field_that_does_not_fit_is_named(fields: dict[str, Any], named: str, file: Path) -> None:
    with pytest.raises(TypeError, match=f"strided.safetensors holds its own spec and weights, with {named}"):
        create_model(file, **fields)
