"""The shipped models: their files, their cards, and their numbers, which do not change by accident."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bcos_vit import create_model, explain
from bcos_vit.data import Digits, Shapes
from bcos_vit.models import shipped
from bcos_vit.models.zoo import CARDS
from golden.make_shipped import COUNTS, FILE, images_of, outputs
from toys import deviation

ROOT = Path(__file__).parents[2]
NAMES = ("bcos_vit_digits", "standard_vit_digits", "bcos_vit_shapes", "standard_vit_shapes")
CLASSES = {"digits": Digits("test").class_names, "shapes": Shapes.class_names}
TERMS = {"digits": ("CC BY 4.0",), "shapes": ("public domain or CC0", "china.jpg by danielbuechele", "CC BY")}
IMAGES = {"digits": 360, "shapes": 1000}


def data_of(name: str) -> str:
    return name.rpartition("_")[2]


def card(name: str) -> dict:
    return json.loads((ROOT / "checkpoints" / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(FILE) as file:
        return {name: torch.from_numpy(array) for name, array in file.items()}


@pytest.mark.parametrize("quantity", ["bcos_logits", "contributions", "rows", "standard_logits"])
@pytest.mark.parametrize("data", COUNTS)
def test_float64_outputs_are_the_golden_ones(golden, data, quantity):
    found = torch.from_numpy(outputs(data, golden[f"{data}_images"])[f"{data}_{quantity}"])
    assert deviation(found, golden[f"{data}_{quantity}"]) < 1e-9


@pytest.mark.parametrize("data", COUNTS)
def test_float32_outputs_are_the_golden_ones(golden, data):
    images = golden[f"{data}_images"]
    expected = {name.removeprefix(f"{data}_"): t.float() for name, t in golden.items() if name.startswith(data)}
    bcos, twin = (create_model(f"{family}_vit_{data}", pretrained=True) for family in ("bcos", "standard"))
    explanation = explain(bcos, images).check()
    assert deviation(bcos(images), expected["bcos_logits"]) < 1e-5
    assert deviation(twin(images), expected["standard_logits"]) < 1e-5
    assert deviation(explanation.contributions, expected["contributions"]) < 1e-5
    assert deviation(explanation.weights, expected["rows"]) < 1e-5


@pytest.mark.parametrize("data", COUNTS)
def test_the_images_are_those_of_the_data(golden, data):
    """To half a step of 8 bits: libraries that resample photos round in their own ways."""
    assert float((images_of(data) - golden[f"{data}_images"]).abs().max()) < 0.5 / 255


@pytest.mark.parametrize("name", NAMES)
def test_card_says_how_it_was_made_and_what_it_may_be_used_for(name):
    kept = card(name)
    assert kept["command"].startswith(f"python train.py model={name} ")
    assert ("data=shapes" in kept["command"]) == name.endswith("_shapes")
    assert kept["seed"] == 0
    assert {"python", "bcos_vit", "torch", "torchvision", "lightning"} <= kept["versions"].keys()
    assert all(term in kept["data_licence"] for term in TERMS[data_of(name)])
    weights = (ROOT / "checkpoints" / f"{name}.safetensors").read_bytes()
    assert len(weights) < 3e6
    assert kept["sha256"] == hashlib.sha256(weights).hexdigest()
    assert str(ROOT) not in json.dumps(kept)  # no path of the machine that trained it
    assert str(ROOT).encode() not in weights


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_is_the_one_on_the_card(name):
    data, kept = data_of(name), card(name)["results"]
    part = {"digits": Digits, "shapes": Shapes}[data]("test")
    images = torch.stack([part[index][0] for index in range(len(part))])
    with torch.no_grad():
        right = create_model(name, pretrained=True)(images).argmax(1) == torch.as_tensor(part.labels)
    assert len(right) == kept["images"] == IMAGES[data]
    apart = abs(int(right.sum()) - round(len(right) * kept["accuracy"]["top1"]))
    assert apart <= (2 if data == "shapes" else 0)  # drawn on photos that are resampled by the libraries at hand
    assert CARDS[name].top1 == 100 * kept["accuracy"]["top1"]


@pytest.mark.parametrize("name", NAMES)
def test_pretrained_model_is_complete(name):
    model = create_model(name, pretrained=True, num_classes=10)
    assert model.spec == CARDS[name].spec
    assert model.class_names == CLASSES[data_of(name)]
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
    recipe = (ROOT / f"configs/recipe/{name.replace('_vit', '')}.yaml").read_text()
    assert f"# Expected  {CARDS[name].top1:.2f} % on the test part with seed 0" in recipe
