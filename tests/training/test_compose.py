"""No dead configuration: every file of every group composes and builds."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bcos_vit.config import build, plain
from runs import CONFIGS, config

GROUPS = {group: sorted(p.stem for p in (CONFIGS / group).glob("*.yaml")) for group in ("data", "model", "recipe")}
CHOICES = [(group, name) for group, names in GROUPS.items() for name in names]


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_choice_composes_and_builds(group, name, tmp_path):
    chosen = config(f"{group}={name}", f"output={tmp_path}")
    plain(chosen)
    model, data = build(chosen.model), build(chosen.data)
    classifier = build(chosen.recipe.classifier)(model=model, recipe={})
    trainer = build(chosen.trainer)(callbacks=[], logger=build(chosen.logger))
    assert len(data.class_names) == model.spec.num_classes
    assert trainer.max_epochs == chosen.recipe.epochs
    assert classifier.model is model


def test_every_folder_of_configs_is_walked():
    folders = {p.parent.name for p in CONFIGS.rglob("*.yaml")}
    assert folders == {"configs", *GROUPS, "trainer", "logger"}  # the last two have one choice each, built above


@pytest.mark.parametrize("path", sorted((CONFIGS / "recipe").glob("*.yaml")), ids=lambda p: p.stem)
def test_recipe_opens_with_command_and_result(path: Path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    words = "\n".join(header)
    assert "Command " in words
    assert "Expected " in words
    assert "Time " in words


def test_build_raises_the_error_of_what_is_built():
    with pytest.raises(ValueError, match="split must be train, val or test, found 'dev'"):
        build(OmegaConf.create({"_target_": "bcos_vit.data.Digits", "split": "dev"}))
