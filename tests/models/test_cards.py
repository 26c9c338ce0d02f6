"""The cards of the zoo against the tables of the release, B-cos v2 (arXiv 2306.10898)."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torchvision.models import ResNet50_Weights

from bcos_vit import list_models
from bcos_vit.models import cards, zoo
from bcos_vit.models.vit import ViT
from bcos_vit.models.zoo import CARDS, Card

# File, top-1 and top-5 accuracy in percent, and millions of parameters.
PUBLISHED = [
    ("bcos_simple_vit_ti_patch16_224-4b0824b1c1.pth", 59.960, 81.838, 5.80),
    ("bcos_simple_vit_s_patch16_224-75e99d1f73.pth", 69.246, 88.096, 22.22),
    ("bcos_simple_vit_b_patch16_224-1fc4750806.pth", 74.408, 91.156, 86.90),
    ("bcos_simple_vit_l_patch16_224-9613b2ad0a.pth", 75.060, 91.378, 178.79),
    ("bcos_vitc_ti_patch1_14-ddd6193a77.pth", 67.260, 86.774, 5.32),
    ("bcos_vitc_s_patch1_14-cf55c88f0c.pth", 74.504, 91.288, 20.88),
    ("bcos_vitc_b_patch1_14-a13c46397b.pth", 77.152, 92.926, 81.33),
    ("bcos_vitc_l_patch1_14-8739e18b8d.pth", 77.782, 92.966, 167.44),
    ("standard_simple_vit_ti_patch16_224-2ae8c65a39.pth", 70.230, 89.380, 5.67),
    ("standard_simple_vit_s_patch16_224-f2934fcdcf.pth", 74.470, 91.226, 21.96),
    ("standard_simple_vit_b_patch16_224-87074200ed.pth", 75.300, 91.026, 86.38),
    ("standard_simple_vit_l_patch16_224-62dc536e03.pth", 75.710, 90.050, 178.10),
    ("standard_vitc_ti_patch1_14-a5d6bded37.pth", 72.590, 90.788, 5.33),
    ("standard_vitc_s_patch1_14-34ecd7288e.pth", 75.756, 91.994, 20.91),
    ("standard_vitc_b_patch1_14-4d374b0220.pth", 76.790, 92.024, 81.39),
    ("standard_vitc_l_patch1_14-560e48f246.pth", 77.866, 92.298, 167.54),
]
UNTRAINED = [*list_models("bcos_*_rope_*"), *list_models("*_smooth_*")]
DIGITS = list_models("*_digits")
SHAPES = list_models("*_shapes")


def name_of(file: str) -> str:
    return file.rsplit("-", 1)[0]


@pytest.mark.parametrize(("file", "top1", "top5", "millions"), PUBLISHED, ids=[name_of(row[0]) for row in PUBLISHED])
def test_published_models_are_those_of_the_release(file: str, top1: float, top5: float, millions: float) -> None:
    card = CARDS[name_of(file)]
    assert (card.file, card.top1, card.top5) == (file, top1, top5)
    assert card.sha256_prefix == file.removesuffix(".pth").rsplit("-", 1)[1]
    assert card.source == "https://github.com/B-cos/B-cos-v2/releases/download/v0.0.1-weights"
    assert card.licence == "derived from ImageNet, whose terms allow non-commercial research only"
    assert "2306.10898" in str(card.recipe)
    with torch.device("meta"):
        model = ViT(card.spec)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


def test_every_name_is_published_ours_or_without_weights() -> None:
    published = [name_of(row[0]) for row in PUBLISHED]
    assert len(set(published)) == 16
    assert sorted(CARDS) == sorted([*published, *UNTRAINED, *DIGITS, *SHAPES])
    assert len(UNTRAINED) == 16


@pytest.mark.parametrize("name", UNTRAINED)
def test_names_without_weights_say_nothing_of_any(name: str) -> None:
    assert CARDS[name] == Card(spec=CARDS[name].spec, class_names=zoo.IMAGENET)
    for field in ("file", "sha256_prefix", "source", "licence", "top1", "top5", "recipe"):
        assert getattr(CARDS[name], field) is None


def test_class_names_are_imagenets_in_its_order() -> None:
    expected = tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
    for name in [*(name_of(row[0]) for row in PUBLISHED), *UNTRAINED]:
        assert CARDS[name].class_names == expected
    assert len(expected) == CARDS["bcos_vitc_s_patch1_14"].spec.num_classes == 1000
    assert (expected[0], expected[207], expected[281], expected[999]) == (
        *("tench", "golden retriever", "tabby", "toilet tissue"),
    )


@pytest.mark.parametrize("name", DIGITS)
def test_class_names_of_the_digits_are_ten_digits(name: str) -> None:
    assert CARDS[name].class_names == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")


@pytest.mark.parametrize("name", DIGITS)
def test_card_of_a_shipped_model_is_what_its_training_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {
        "results": {"accuracy": {"top1": 0.975, "top5": 1.0}},
        "sha256": 64 * "a",
        "data_licence": "CC BY 4.0",
        "command": f"python train.py model={name}",
    }
    monkeypatch.setattr(cards, "shipped_card", {name: kept}.get)
    assert cards._shipped_card(name, CARDS[name].spec) == Card(
        spec=CARDS[name].spec,
        class_names=tuple("0123456789"),
        file=f"{name}.safetensors",
        sha256_prefix=64 * "a",
        source="shipped",
        licence="weights Apache-2.0; data: CC BY 4.0",
        top1=97.5,
        top5=100.0,
        recipe=f"python train.py model={name}",
    )
    monkeypatch.setattr(cards, "shipped_card", {}.get)
    assert cards._shipped_card(name, CARDS[name].spec).source is None


@pytest.mark.parametrize("name", sorted(CARDS))
def test_cards_are_fixed_and_plain(name: str) -> None:
    card = CARDS[name]
    with pytest.raises(dataclasses.FrozenInstanceError):
        card.top1 = 100.0
    assert len(card.class_names) == card.spec.num_classes
    json.dumps(dataclasses.asdict(card))
    given = [getattr(card, field.name) is not None for field in dataclasses.fields(card)]
    assert all(given) or card.source is None  # a card with weights has every line
