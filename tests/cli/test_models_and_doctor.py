"""``bcos-vit models`` and ``bcos-vit doctor``, help, version, and the ways to start the command."""

import os
import subprocess
import sys
import tomllib
from importlib import import_module, metadata
from pathlib import Path

import pytest
import torch

import bcos_vit
from bcos_vit.models import shipped
from bcos_vit.models.zoo import CARDS

ROOT = Path(__file__).parents[2]
SHIPPED = ("bcos_vit_digits", "standard_vit_digits")


def module(*arguments, **options):
    command = [sys.executable, "-m", "bcos_vit.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_all_names_are_listed_with_size_and_weights(command):
    said = command("models")
    assert (said.status, said.err) == (0, "")
    head, *rows = [line.split("  ") for line in said.out.split("\n\n")[0].splitlines()]
    assert [cell.strip() for cell in head if cell] == ["name", "parameters", "image", "positions", "weights", "top-1 %"]
    table = {row[0]: [cell.strip() for cell in row if cell] for row in rows}
    assert table.keys() == CARDS.keys()
    for name, (_, parameters, image, position, weights, top1) in table.items():
        card = CARDS[name]
        assert image == f"{card.spec.image_size} px"
        assert position == card.spec.position
        assert weights == ("shipped" if name in SHIPPED else "published" if card.file else "none")
        assert top1 == ("-" if card.top1 is None else f"{card.top1:.2f}")
        assert parameters.endswith(" M")
    for name in SHIPPED:
        count = sum(p.numel() for p in bcos_vit.create_model(name).parameters())
        assert table[name][1] == f"{count / 1e6:.2f} M"


def test_a_pattern_chooses_names(command):
    said = command("models", "*_digits")
    names = [line.split()[0] for line in said.out.split("\n\n")[0].splitlines()[1:]]
    assert tuple(names) == SHIPPED


@pytest.mark.parametrize("name", ["bcos_vit_digits", "standard_vitc_ti_patch1_14", "bcos_vitc_ti_rope_patch1_14"])
def test_a_name_shows_its_card(command, name):
    said = command("models", name)
    rows = {line[:12].strip(): line[12:] for line in said.out.splitlines()}
    card, model = CARDS[name], bcos_vit.create_model(name)
    assert rows["name"] == name
    assert int(rows["parameters"].replace(",", "")) == sum(p.numel() for p in model.parameters())
    assert f"width {card.spec.width}, " in rows["spec"]
    assert rows["classes"].startswith(f"{card.spec.num_classes:,}: {card.class_names[0]}, ")
    for label, value in {
        "file": card.file,
        "source": card.source,
        "licence": card.licence,
        "recipe": card.recipe,
    }.items():
        assert rows.get(label) == value
    assert rows.get("top-1") == (None if card.top1 is None else f"{card.top1:.2f} %")
    assert (rows["weights"] == "none") == ("SHA-256" not in rows)


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [("bcos_vit_digit", ", did you mean 'bcos_vit_digits'?"), ("zzz", "; valid are: bcos_simple_vit_b_patch16_224, ")],
)
def test_a_name_of_no_model_is_answered_with_the_nearest(command, pattern, sentence):
    said = command("models", pattern)
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith(f"bcos-vit models: no model is named {pattern!r}{sentence}")
    assert len(said.err.splitlines()) == 1


def test_doctor_says_what_a_report_needs(command):
    said = command("doctor")
    assert (said.status, said.err) == (0, "")
    for package in ("torch", "torchvision", "safetensors", "pillow"):
        assert f"  {package:<14}{metadata.version(package)}\n" in said.out
    assert f"{torch.get_num_threads()} threads in use" in said.out
    for name in SHIPPED:
        assert f"  {name:<22}{shipped.shipped_weights(name)} (SHA-256 as on its card)" in said.out


def test_doctor_says_what_is_not_installed(command, monkeypatch):
    def missing(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr("bcos_vit.extras.version", missing)
    said = command("doctor")
    assert said.status == 0
    assert f"  {'matplotlib':<14}not installed\n" in said.out


def test_doctor_finds_shipped_models_that_are_missing_or_damaged(command, monkeypatch, tmp_path):
    for name in SHIPPED:
        (tmp_path / f"{name}.json").write_bytes((ROOT / "checkpoints" / f"{name}.json").read_bytes())
    (tmp_path / f"{SHIPPED[0]}.safetensors").write_bytes(b"damaged")
    monkeypatch.setattr(shipped, "FOLDERS", (tmp_path,))
    said = command("doctor")
    assert said.status == 1
    assert "bcos_vit_digits.safetensors is damaged: its SHA-256 is " in said.out
    assert f"the shipped weights of standard_vit_digits or their card are missing or damaged in {tmp_path}" in said.out


def test_doctor_looks_at_caches_that_are_not_there_yet(command, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "not" / "yet"))
    said = command("doctor")
    assert f"{tmp_path / 'not' / 'yet'} (" in said.out
    assert ", not there yet)" in said.out


@pytest.mark.parametrize("arguments", [[], ["models"], ["explain"], ["doctor"]])
def test_help_is_told(command, arguments):
    said = command(*arguments, "--help")
    assert (said.status, said.err) == (0, "")
    assert said.out.startswith(f"usage: {' '.join(['bcos-vit', *arguments])}")


def test_version_is_told(command):
    assert command("--version") == (0, f"bcos-vit {bcos_vit.__version__}\n", "")


def test_the_module_is_the_command(tmp_path):
    assert module("--version", cwd=tmp_path).stdout == f"bcos-vit {bcos_vit.__version__}\n"
    done = module("models", "nothing", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("bcos-vit models: no model is named 'nothing'")


def test_the_script_leads_to_the_command():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    place, function = project["scripts"]["bcos-vit"].split(":")
    assert getattr(import_module(place), function)(["models", "*_digits"]) == 0


def test_a_reader_who_has_seen_enough_is_no_failure():
    reading, writing = os.pipe()
    os.close(reading)  # before the first word
    command = [sys.executable, "-m", "bcos_vit.cli", "models"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
