"""The shipped models: their files, their cards, and their numbers, which do not change by accident."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bcos_vit import create_model, explain
from bcos_vit.data import Digits
from bcos_vit.models import shipped
from bcos_vit.models.zoo import CARDS
from golden.make_shipped import COUNT, FILE, outputs
from toys import deviation

ROOT = Path(__file__).parents[2]
NAMES = ("bcos_vit_digits", "standard_vit_digits")


def card(name: str) -> dict:
    return json.loads((ROOT / "checkpoints" / f"{name}.json").read_text())


@pytest.mark.parametrize("quantity", ["bcos_logits", "contributions", "rows", "standard_logits"])
def test_float64_outputs_are_the_golden_ones(quantity):
    with np.load(FILE) as golden:
        expected = golden[quantity]
    assert deviation(torch.from_numpy(outputs()[quantity]), torch.from_numpy(expected)) < 1e-9


def test_float32_outputs_are_the_golden_ones():
    with np.load(FILE) as file:
        golden = {name: torch.from_numpy(array).float() for name, array in file.items()}
    images = Digits("test").images[:COUNT]
    explanation = explain(create_model(NAMES[0], pretrained=True), images).check()
    assert deviation(create_model(NAMES[0], pretrained=True)(images), golden["bcos_logits"]) < 1e-5
    assert deviation(create_model(NAMES[1], pretrained=True)(images), golden["standard_logits"]) < 1e-5
    assert deviation(explanation.contributions, golden["contributions"]) < 1e-5
    assert deviation(explanation.weights, golden["rows"]) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_card_says_how_it_was_made_and_what_it_may_be_used_for(name):
    kept = card(name)
    assert kept["command"].startswith(f"python train.py model={name} ")
    assert kept["seed"] == 0
    assert {"python", "bcos_vit", "torch", "torchvision", "lightning"} <= kept["versions"].keys()
    assert "CC BY 4.0" in kept["data_licence"]
    weights = (ROOT / "checkpoints" / f"{name}.safetensors").read_bytes()
    assert kept["sha256"] == hashlib.sha256(weights).hexdigest()
    assert str(ROOT) not in json.dumps(kept)  # no path of the machine that trained it
    assert str(ROOT).encode() not in weights


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_is_the_one_on_the_card(name):
    test, kept = Digits("test"), card(name)["results"]
    with torch.no_grad():
        right = create_model(name, pretrained=True)(test.images).argmax(1) == torch.tensor(test.labels)
    assert len(right) == kept["images"] == 360
    assert int(right.sum()) == round(360 * kept["accuracy"]["top1"])
    assert CARDS[name].top1 == 100 * kept["accuracy"]["top1"]


@pytest.mark.parametrize("name", NAMES)
def test_pretrained_model_is_complete(name):
    model = create_model(name, pretrained=True, num_classes=10)
    assert model.spec == CARDS[name].spec
    assert model.class_names == tuple("0123456789")
    assert model.transform is not None
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_other_spec_fields_do_not_fit_trained_weights():
    with pytest.raises(TypeError, match=r"the trained bcos_vit_digits holds its own .* depth 4: drop depth"):
        create_model("bcos_vit_digits", pretrained=True, depth=2)


def test_a_missing_file_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(shipped, "FOLDERS", (tmp_path,))
    with pytest.raises(
        FileNotFoundError, match="shipped weights of bcos_vit_digits or their card are missing or damaged"
    ):
        create_model("bcos_vit_digits", pretrained=True)


def test_names_without_weights_are_refused_not_made_up():
    with pytest.raises(ValueError, match="has no trained weights, nobody has trained it yet"):
        create_model("bcos_vitc_ti_rope_patch1_14", pretrained=True)


@pytest.mark.parametrize("damage", [b"", b"{", b"{}", b"\xff\xfe", b"[1]"])
def test_a_damaged_card_is_a_sentence_not_a_broken_import(monkeypatch, tmp_path, damage):
    shutil.copytree(ROOT / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / f"{NAMES[0]}.json").write_bytes(damage)
    monkeypatch.setattr(shipped, "FOLDERS", (tmp_path / "checkpoints",))
    assert shipped.shipped_card(NAMES[0]) is None
    assert shipped.shipped_card(NAMES[1]) is not None
    with pytest.raises(FileNotFoundError, match="or their card are missing or damaged"):
        create_model(NAMES[0], pretrained=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_expects_what_was_measured(name):
    recipe = (ROOT / f"configs/recipe/{name.partition('_')[0]}_digits.yaml").read_text()
    assert f"# Expected  {CARDS[name].top1:.2f} % on the test part with seed 0" in recipe
