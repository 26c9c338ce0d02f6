"""The card of a shared model: what was measured, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from bcos_vit import ViT, create_model, save_model
from toys import toy

CARD = Path(__file__).parents[2] / "checkpoints" / "bcos_vit_digits.json"


def section(card: str, title: str) -> str:
    return card.split(f"## {title}\n")[1].split("\n## ")[0]


def numbers(values: dict[str, Any]) -> list[float]:
    return [n for v in values.values() for n in (numbers(v) if isinstance(v, dict) else [v])]


def test_the_card_holds_what_was_measured(tmp_path: Path) -> None:
    create_model("bcos_vit_digits", pretrained=True).save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "bcos_vit"
    assert card.data.pipeline_tag == "image-classification"
    assert {"b-cos", "interpretability"} <= set(card.data.tags)
    results = section(card.text, "Results")
    assert "fractions, not percent" in results
    assert "| accuracy top1 | 0.9694 |" in results
    rows = dict(
        line.strip("| ").split(" | ")
        for line in results.splitlines()
        if line.startswith("| ") and "---" not in line and line != "| | |"
    )
    measured = json.loads(CARD.read_text())["results"]
    assert rows["images"] == "360"
    assert [float(value) for value in rows.values()] == pytest.approx(numbers(measured), rel=1e-3)
    assert len(rows) == len(numbers(measured)) == 10
    assert "| num classes | 10 |" in section(card.text, "What it is")
    assert "bcos_vit.training.OneVsRest" in section(card.text, "How it came to be")


@pytest.mark.parametrize("name", ["bcos_vit_digits", "standard_vit_digits"])
def test_untrained_models_have_no_numbers(name: str, tmp_path: Path) -> None:
    toy(name).save_pretrained(tmp_path / "new")
    model = create_model(name, pretrained=True)
    model.reset_classifier(3)
    model.save_pretrained(tmp_path / "reset")
    for folder in ("new", "reset"):
        results = section(ModelCard.load(tmp_path / folder / "README.md").text, "Results")
        assert results.strip() == "Nothing is known to have been measured with these weights."


def test_what_a_source_states_is_not_what_was_measured(tmp_path: Path) -> None:
    model = toy("standard_vitc_ti_patch1_14")
    model.about = {"name": "mine", "source": "https://example.org/weights", "sha256": "0" * 64, "recipe": "a paper"}
    model.about |= {"licence": "for research", "stated": {"top1": 72.59, "top5": None}}
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "other"
    assert "b-cos" not in card.data.tags
    results = section(card.text, "Results")
    assert "Accuracy in percent as the source of the weights states it, not measured again." in results
    assert "| top1 | 72.59 |" in results
    assert "top5" not in results
    assert "Measured" not in results
    origin = section(card.text, "How it came to be")
    for text in ("source: https://example.org/weights", f"sha256: {'0' * 64}", "a paper", "Licence: for research"):
        assert text in origin
    assert "# mine\n" in card.text


def test_a_card_goes_with_its_weights_but_own_words_stay(tmp_path: Path) -> None:
    model = create_model("bcos_vit_digits", pretrained=True)
    model.save_pretrained(tmp_path)
    model.reset_classifier(3)
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "0.9694" not in card
    assert "| num classes | 3 |" in card
    (tmp_path / "README.md").write_text("My own words.")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "My own words."


@pytest.mark.parametrize("strange", [[1], "x", 5, {"a": [1]}, {"a": None}], ids=str)
@pytest.mark.parametrize("where", ["results", "stated", "recipe", "licence", "name"])
def test_what_strange_files_say_of_themselves_breaks_no_card(where: str, strange: Any, tmp_path: Path) -> None:
    save_model(toy("bcos_vit_digits"), tmp_path / "mine.safetensors", about={where: strange})
    create_model(tmp_path / "mine.safetensors").save_pretrained(tmp_path / "shared")
    assert ModelCard.load(tmp_path / "shared" / "README.md").data.library_name == "bcos_vit"
    assert ViT.from_pretrained(tmp_path / "shared").about == {where: strange}
