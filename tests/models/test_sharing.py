"""Folders of ``save_pretrained``: exact models, their configuration and their card, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from bcos_vit import ViT, create_model, explain
from kinds import KINDS, kind, wide_images
from toys import deviation, images_for, toy

FILES = ["README.md", "config.json", "model.safetensors"]


def assert_exact(found: ViT, expected: ViT) -> None:
    """Of one spec, with the same tensors bit for bit and what is known of them, ready for use."""
    assert type(found) is ViT
    assert found.spec == expected.spec
    assert found.class_names == expected.class_names
    assert found.about == expected.about
    assert list(found.state_dict()) == list(expected.state_dict())
    for key, tensor in expected.state_dict().items():
        assert found.state_dict()[key].dtype == tensor.dtype
        assert torch.equal(found.state_dict()[key], tensor), key
    assert {module.training for module in found.modules()} == {False}
    assert all(parameter.requires_grad for parameter in found.parameters())
    size = expected.spec.image_size
    assert found.transform(Image.new("L", (50, 60))).shape == (3, size, size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_shared_models_are_exact(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = kind(name, dtype=dtype)
    model.class_names = ("a", "b", "c", "d", "ö")
    model.about = {"recipe": {"seed": 0}, "results": {"accuracy": 0.5}}
    shared = copy.deepcopy(model)  # saving changes nothing in what is compared
    shared.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    again = ViT.from_pretrained(tmp_path)
    assert_exact(again, model)
    images = wide_images(model)
    with torch.no_grad():
        # Not bitwise: the same numbers may lie elsewhere in memory, and sums depend on their alignment.
        slack = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 0.1}[dtype]
        assert deviation(again(images), model(images)) <= slack
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == json.loads(json.dumps(dataclasses.asdict(model.spec)))
    assert_exact(create_model(tmp_path / "model.safetensors"), model)  # it is a weights file like any other


def test_a_model_in_training_and_one_without_names(tmp_path: Path) -> None:
    model = toy("bcos_vit_digits").train()
    model.save_pretrained(str(tmp_path / "new" / "folder"))
    assert model.training
    assert_exact(ViT.from_pretrained(str(tmp_path / "new" / "folder")), model)


@pytest.mark.parametrize("name", ["bcos_vit_digits", "standard_vit_digits"])
def test_shipped_models_and_those_for_other_classes(name: str, tmp_path: Path) -> None:
    model = create_model(name, pretrained=True)
    model.save_pretrained(tmp_path)
    assert_exact(ViT.from_pretrained(tmp_path), model)
    model.reset_classifier(3)
    model.class_names = ("x", "y", "z")
    model.save_pretrained(tmp_path)  # over the other
    again = ViT.from_pretrained(tmp_path)
    assert_exact(again, model)
    if again.dynamic_linear:
        explain(again, images_for(again)).check()


def test_shared_models_for_other_classes_and_sizes(tmp_path: Path) -> None:
    model = create_model("bcos_vit_digits", pretrained=True)
    model.save_pretrained(tmp_path)
    assert_exact(ViT.from_pretrained(tmp_path, num_classes=10, image_size=8), model)
    again = ViT.from_pretrained(tmp_path, num_classes=3, image_size=16)
    assert again.spec == dataclasses.replace(model.spec, num_classes=3, image_size=16)
    assert again.class_names is None
    assert "results" not in again.about
    assert again.transform(Image.new("L", (50, 60))).shape == (3, 16, 16)
    changed = [key for key, t in again.state_dict().items() if not torch.equal(t, model.state_dict()[key])]
    assert changed == ["head.classify.weight"]


# --- the base of the models is in nobody's way ---


def _copies(model: ViT) -> dict[str, ViT]:
    state = io.BytesIO()
    torch.save(model.state_dict(), state)
    fresh = ViT(model.spec)
    fresh.load_state_dict(torch.load(io.BytesIO(state.getvalue()), weights_only=True))
    copies = {"deepcopy": copy.deepcopy(model), "pickle": pickle.loads(pickle.dumps(model))}
    return copies | {"state": fresh.eval()}


@pytest.mark.parametrize("name", ["bcos-stem-sincos-pool", "standard-prior-tokens", "bcos-digits"])
def test_copies_are_exact(name: str, tmp_path: Path) -> None:
    kind(name).save_pretrained(tmp_path)
    for model in (kind(name), ViT.from_pretrained(tmp_path)):
        images: Tensor = wide_images(model)
        for how, found in _copies(model).items():
            assert found.spec == model.spec, how
            assert not {p.data_ptr() for p in found.parameters()} & {p.data_ptr() for p in model.parameters()}
            assert all(torch.equal(found.state_dict()[key], t) for key, t in model.state_dict().items())
            assert deviation(found(images), model(images)) <= 1e-5
            found.save_pretrained(tmp_path / how)
            assert ViT.from_pretrained(tmp_path / how).spec == model.spec


@pytest.mark.slow
def test_compiled_models_are_shared_like_others(tmp_path: Path) -> None:
    model = kind("bcos-stem-rope-tokens")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    images = wide_images(model)
    assert deviation(compiled(images), model(images)) <= 1e-5
    compiled.save_pretrained(tmp_path)
    assert_exact(ViT.from_pretrained(tmp_path), model)
    again = torch.compile(ViT.from_pretrained(tmp_path), backend="eager", fullgraph=True)
    assert deviation(again(images), model(images)) <= 1e-5
