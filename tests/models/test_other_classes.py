"""Models for other classes and image sizes: what is fresh, what is kept bit for bit, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from bcos_vit import ViT, create_model, explain, predict, save_model
from bcos_vit.data import Digits
from kinds import KINDS, kind, wide_images
from toys import deviation, images_for, random_images, toy

DIGITS = ("bcos_vit_digits", "standard_vit_digits")
HEAD = "head.classify."


def bias_of(name: str, classes: int) -> float:
    """The logit bias that belongs to a number of classes."""
    return math.log(1 / (classes - 1)) if name.startswith("bcos") else 0.0


def assert_only_the_classifier_differs(found: ViT, before: dict[str, torch.Tensor]) -> None:
    after = found.state_dict()
    assert list(after) == list(before)
    for key, tensor in before.items():
        if key.startswith(HEAD):
            assert after[key].shape[0] != tensor.shape[0] or not torch.equal(after[key], tensor)
        else:
            assert torch.equal(after[key], tensor), key


# --- reset_classifier ---


@pytest.mark.parametrize("classes", [2, 5, 7])
@pytest.mark.parametrize("name", KINDS)
def test_a_reset_classifier_is_fresh_and_all_else_stays(name: str, classes: int) -> None:
    model = kind(name, dtype=torch.float64)
    model.class_names = tuple("abcde")
    before, spec = copy.deepcopy(model.state_dict()), model.spec
    model.reset_classifier(classes)
    assert_only_the_classifier_differs(model, before)
    assert model.spec == dataclasses.replace(spec, num_classes=classes, logit_bias=None)
    assert model.class_names is None
    assert model.logits.scale == spec.logit_scale
    images = wide_images(model)
    with torch.no_grad():
        features = model.forward_head(model.forward_features(images), pre_logits=True)
        scores = model.get_classifier()(features)
        scores = scores.mean(1) if spec.head == "tokens" else scores
        logits = model(images)
    assert logits.shape == (2, classes)
    added = logits - spec.logit_scale * scores
    torch.testing.assert_close(added, torch.full_like(added, bias_of(name, classes)), rtol=0, atol=1e-12)
    if model.dynamic_linear:
        explain(model, images).check()


@pytest.mark.parametrize("name", ["bcos-scaled", "standard-scaled"])
def test_the_bias_of_other_classes_does_not_stay(name: str) -> None:
    model = kind(name)
    assert model.spec.logit_bias is not None
    model.reset_classifier(4)
    assert model.spec.logit_bias is None
    assert model.spec.bias == model.logits.bias == pytest.approx(bias_of(name, 4), abs=1e-15)
    assert model.logits.bias != kind(name).logits.bias


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["bcos-sincos-pool", "standard-stem-rope-tokens", "bcos-stem-maxout"])
def test_the_new_classifier_is_where_and_as_the_old_one_was(name: str, dtype: torch.dtype, training: bool) -> None:
    model = kind(name, dtype=dtype).train(training)
    model.requires_grad_(False)
    model.reset_classifier(3)
    assert {module.training for module in model.modules()} == {training}
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    learning = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    assert learning == [key for key in model.state_dict() if key.startswith(HEAD)]  # a frozen backbone stays so
    elsewhere = kind(name).to("meta")
    elsewhere.reset_classifier(3)
    assert {parameter.device.type for parameter in elsewhere.parameters()} == {"meta"}


@pytest.mark.parametrize("name", KINDS)
def test_gradients_flow_through_a_new_classifier(name: str) -> None:
    model = kind(name).train()
    model.reset_classifier(3)
    model(wide_images(model)).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all()
    assert model.get_classifier().weight.grad.abs().max() > 0
    assert next(model.tokens.project.parameters()).grad.abs().max() > 0


def test_new_classifiers_are_drawn_as_those_of_new_models() -> None:
    """From torch's seed, for the same spread."""
    model = toy("bcos_vit_digits")
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model.reset_classifier(300)
        weights.append(model.head.classify.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    new = toy("bcos_vit_digits", num_classes=300).head.classify.weight
    assert deviation(weights[0].std(), new.std()) < 0.05


def test_what_was_measured_of_another_head_is_forgotten() -> None:
    model = toy("bcos_vit_digits")
    about = {"name": "x", "recipe": {"seed": 0}, "results": {"top1": 0.9}, "stated": {"top1": 59.9}, "licence": "L"}
    model.about = about
    model.reset_classifier(3)
    assert model.about == {"derived_from": {"name": "x"}, "licence": "L"}
    assert "results" in about  # another model may hold it


@pytest.mark.parametrize(("classes", "found"), [(0, "0"), (-1, "-1"), (True, "True"), (2.5, "2.5"), (None, "None")])
def test_numbers_that_are_none_of_classes_change_nothing(classes: Any, found: str) -> None:
    model = toy("standard_vit_digits")
    classify, spec = model.head.classify, model.spec
    with pytest.raises(ValueError, match=f"num_classes must be a whole number of at least 1, found {found}"):
        model.reset_classifier(classes)
    assert model.head.classify is classify
    assert model.spec is spec
    with pytest.raises(ValueError, match="num_classes must be a whole number"):
        create_model("bcos_vit_digits", pretrained=True, num_classes=classes)


def test_one_class() -> None:
    model = toy("standard_vit_digits")
    model.reset_classifier(1)
    assert model(images_for(model)).shape == (3, 1)
    with pytest.raises(ValueError, match="1 class has no default logit bias"):
        toy("bcos_vit_digits").reset_classifier(1)


# --- trained weights for other classes ---


def trained(name: str, source: str, folder: Path, **overrides: Any) -> ViT:
    """A shipped model, by its name or from a file."""
    if source == "name":
        return create_model(name, pretrained=True, **overrides)
    save_model(create_model(name, pretrained=True), folder / "mine.safetensors")
    return create_model(folder / "mine.safetensors", **overrides)


@pytest.mark.parametrize("source", ["name", "file"])
@pytest.mark.parametrize("name", DIGITS)
def test_trained_weights_under_another_head(name: str, source: str, tmp_path: Path) -> None:
    whole = trained(name, source, tmp_path)
    model = trained(name, source, tmp_path, num_classes=3)
    assert_only_the_classifier_differs(model, whole.state_dict())
    assert model.head.classify.weight.shape == (3, 96)
    assert model.spec == dataclasses.replace(whole.spec, num_classes=3)
    assert model.logits.bias == pytest.approx(bias_of(name, 3), abs=1e-15)
    assert model.class_names is None
    assert "results" in whole.about
    assert "results" not in model.about
    assert model.about.get("derived_from", {}).get("name") == whole.about.get("name")
    assert {module.training for module in model.modules()} == {False}
    images = Digits("test").images[:4]
    assert torch.equal(model.forward_features(images), whole.forward_features(images))
    assert [len(names) for names in predict(model, images, k=2).names] == [2] * 4
    if model.dynamic_linear:
        explain(model, images).check()


@pytest.mark.parametrize("source", ["name", "file"])
@pytest.mark.parametrize("name", DIGITS)
def test_the_same_number_of_classes_keeps_the_head(name: str, source: str, tmp_path: Path) -> None:
    whole = trained(name, source, tmp_path)
    model = trained(name, source, tmp_path, num_classes=10, image_size=8)
    assert model.spec == whole.spec
    assert model.class_names == tuple("0123456789")
    assert model.about == whole.about
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in whole.state_dict().items())


# --- trained weights for other image sizes ---


@pytest.mark.parametrize("source", ["name", "file"])
@pytest.mark.parametrize("name", DIGITS)
def test_trained_weights_for_larger_images(name: str, source: str, tmp_path: Path) -> None:
    whole = trained(name, source, tmp_path)
    model = trained(name, source, tmp_path, image_size=16)
    assert model.spec == dataclasses.replace(whole.spec, image_size=16)
    assert list(model.state_dict()) == list(whole.state_dict())
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in whole.state_dict().items())
    assert model.class_names == whole.class_names
    assert "results" not in model.about
    images = torch.stack([model.transform(photo.resize((40, 30))) for photo in _photos()])
    assert images.shape == (5, 3, 16, 16)
    prediction = predict(model, images, k=3)
    assert torch.equal(prediction.logits, whole(images).topk(3).values)  # any size will do; this one is meant
    assert all(found in model.class_names for names in prediction.names for found in names)
    if model.dynamic_linear:
        explain(model, images).check()


def _photos() -> list[Image.Image]:
    return [Image.fromarray((255 * image[0]).byte().numpy()) for image in Digits("test").images[:5]]


def test_both_at_once_in_either_order() -> None:
    one = create_model("bcos_vit_digits", pretrained=True, num_classes=4, image_size=16)
    two = create_model("bcos_vit_digits", pretrained=True, image_size=16, num_classes=4)
    assert one.spec == two.spec
    assert (one.spec.num_classes, one.spec.image_size) == (4, 16)
    assert one.transform(Image.new("L", (30, 20))).shape == (3, 16, 16)
    assert one(random_images(1, 16)).shape == (1, 4)


@pytest.mark.parametrize("size", [15, 17, 1])
def test_image_sizes_that_do_not_divide_into_patches(size: int) -> None:
    with pytest.raises(ValueError, match=f"image_size {size} must be a multiple of patch_size 2"):
        create_model("bcos_vit_digits", pretrained=True, image_size=size)


def test_a_learned_prior_is_tied_to_its_image_size(tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    save_model(kind("bcos-prior-pool"), path)
    sentence = r"prior\.safetensors holds its own spec and weights, with image_size 12: drop image_size"
    with pytest.raises(TypeError, match=sentence):
        create_model(path, image_size=24)
    model = create_model(path, image_size=12, num_classes=3)
    assert (model.spec.image_size, model.spec.num_classes) == (12, 3)
    with pytest.raises(ValueError, match="position 'prior' is tied to 12 x 12 images, found 24 x 24"):
        model(random_images(1, 24))


@pytest.mark.parametrize(
    ("field", "value", "own"),
    [
        ("depth", 3, "4"),
        ("width", 192, "96"),
        ("patch_size", 4, "2"),
        ("family", "standard", "'bcos'"),
        ("max_out", 2, "1"),
        ("stem", (8,), r"\(\)"),
    ],
)
@pytest.mark.parametrize("source", ["name", "file"])
def test_what_changes_shapes_of_trained_weights_is_refused(
    field: str, value: Any, own: str, source: str, tmp_path: Path
) -> None:
    sentence = f"holds its own spec and weights, with {field} {own}: drop {field}"
    with pytest.raises(TypeError, match=sentence):
        trained("bcos_vit_digits", source, tmp_path, **{field: value})
    with pytest.raises(TypeError, match=sentence):  # nor beside what can be
        trained("bcos_vit_digits", source, tmp_path, num_classes=3, **{field: value}, image_size=16)


def test_the_logit_bias_goes_with_the_head(tmp_path: Path) -> None:
    for source in ("name", "file"):
        assert trained("bcos_vit_digits", source, tmp_path, logit_bias=-1.0).about["not_fine_tuned"].keys() == {
            "logit_bias"
        }
        model = trained("bcos_vit_digits", source, tmp_path, logit_bias=-1.0, num_classes=1)
        assert (model.spec.num_classes, model.logits.bias) == (1, -1.0)


def test_an_untrained_model_takes_any_field() -> None:
    model = create_model("bcos_vit_digits", depth=2, num_classes=3, image_size=16, logit_bias=-1.0)
    assert (model.spec.depth, model.spec.num_classes, model.spec.image_size, model.logits.bias) == (2, 3, 16, -1.0)
    assert isinstance(model.get_classifier(), nn.Module)
