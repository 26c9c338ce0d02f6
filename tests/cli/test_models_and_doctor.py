"""``bcos-vit models`` and ``bcos-vit doctor``, help, version, and the ways to start the command."""

import os
import re
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
SHIPPED = ("bcos_vit_digits", "standard_vit_digits", "bcos_vit_shapes", "standard_vit_shapes")


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
    assert names == ["bcos_vit_digits", "standard_vit_digits"]


def test_the_markdown_table_says_of_every_name_what_its_card_says(command):
    said = command("models", "--markdown")
    assert (said.status, said.err) == (0, "")
    head, rule, *rows = said.out.splitlines()
    assert head == ("| name | parameters (M) | width | blocks | heads | positions | weights | top-1 (%) | top-5 (%) |")
    assert rule == "|" + 9 * " --- |"
    table = [row.removeprefix("| ").removesuffix(" |").split(" | ") for row in rows]
    assert [row[0] for row in table] == [f"`{name}`" for name in bcos_vit.list_models()]
    for name, (_, parameters, width, blocks, heads, position, *trained) in zip(sorted(CARDS), table, strict=True):
        card = CARDS[name]
        assert (width, blocks, heads) == tuple(str(n) for n in (card.spec.width, card.spec.depth, card.spec.heads))
        assert position == card.spec.position
        with torch.device("meta"):
            count = sum(p.numel() for p in bcos_vit.ViT(card.spec).parameters())
        assert parameters == f"{count / 1e6:.2f}"
        if card.file is None:
            assert trained == ["none", "-", "-"]
        else:
            source = "shipped" if name in SHIPPED else "published"
            assert trained == [source, f"{card.top1:.2f}", f"{card.top5:.2f}"]


def test_the_markdown_table_of_some_names_or_of_one(command):
    whole = command("models", "--markdown").out.splitlines()
    some = command("models", "standard_vitc_*", "--markdown").out.splitlines()
    assert some == whole[:2] + [row for row in whole if row.startswith("| `standard_vitc_")]
    assert len(some) == 2 + 8
    (row,) = command("models", "bcos_vitc_ti_patch1_14", "--markdown").out.splitlines()[2:]
    assert row == "| `bcos_vitc_ti_patch1_14` | 5.32 | 192 | 11 | 3 | sincos | published | 67.26 | 86.77 |"


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
    for label, percent in {"top-1": card.top1, "top-5": card.top5}.items():
        assert rows.get(label) == (None if percent is None else f"{percent:.2f} %")
    assert (rows["weights"] == "none") == ("SHA-256" not in rows)
    if card.sha256_prefix is not None:
        assert re.fullmatch(r"[0-9a-f]{10,}\.*", rows["SHA-256"])  # dots where it is not known
        assert (rows["SHA-256"].rstrip("."), len(rows["SHA-256"])) == (card.sha256_prefix, 64)
    size = model.transform.image_size
    assert rows["images"] == (
        f"shorter side to {256 * size // 224 if size >= 64 else size} pixels (bilinear), centre crop of {size}, "
        "RGB in [0, 1]"
    )


def test_the_card_of_a_published_model_in_full(command):
    said = command("models", "bcos_vitc_ti_patch1_14")
    assert said.out.splitlines()[3:] == [
        "classes     1,000: tench, goldfish, great white shark, ...",
        "weights     published",
        "file        bcos_vitc_ti_patch1_14-ddd6193a77.pth",
        f"SHA-256     ddd6193a77{54 * '.'}",
        "source      https://github.com/B-cos/B-cos-v2/releases/download/v0.0.1-weights",
        "licence     derived from ImageNet, whose terms allow non-commercial research only",
        "top-1       67.26 %",
        "top-5       86.77 %",
        "recipe      B-cos v2, arXiv 2306.10898: 90 epochs of ImageNet-1k",
        "images      shorter side to 256 pixels (bilinear), centre crop of 224, RGB in [0, 1]",
    ]


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


@pytest.fixture
def doctor(command, monkeypatch, tmp_path):
    """The lines of caches and of published weights, with these variables of the environment alone."""

    def call(**variables):
        for name in ("BCOS_VIT_CACHE", "BCOS_VIT_MIRROR", "BCOS_VIT_OFFLINE", "TORCH_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in ({"TORCH_HOME": tmp_path / "torch"} | variables).items():
            monkeypatch.setenv(name, str(value))
        said = command("doctor")
        assert (said.status, said.err) == (0, "")
        caches = said.out.partition("\ncaches\n")[2].partition("\npublished weights\n")[0].splitlines()
        return caches, said.out.partition("\npublished weights\n")[2].partition("\nshipped models\n")[0].splitlines()

    return call


def test_doctor_shows_where_published_weights_are_kept(doctor, tmp_path):
    caches, _ = doctor()
    weights = f"  weights       {tmp_path / 'torch/hub/checkpoints'} ("
    assert caches[0].startswith(weights)
    assert caches[0].endswith(" GiB free, writable, not there yet)")
    (tmp_path / "cache").mkdir()
    caches, lines = doctor(BCOS_VIT_CACHE=tmp_path / "cache")
    assert caches[0].startswith(f"  weights       {tmp_path / 'cache'} (")
    assert caches[0].endswith(" GiB free, writable)")
    assert f"  BCOS_VIT_CACHE is '{tmp_path / 'cache'}'" in lines


def test_doctor_shows_what_the_environment_says_of_downloads(doctor):
    assert doctor()[1] == ["  none in the cache"]
    _, lines = doctor(BCOS_VIT_OFFLINE=1, BCOS_VIT_MIRROR="https://mirror.example/weights")
    said = [line for line in lines if " is " in line]
    assert said == ["  BCOS_VIT_MIRROR is 'https://mirror.example/weights'", "  BCOS_VIT_OFFLINE is '1'"]


def test_doctor_finds_published_weights_in_the_cache(doctor, tmp_path):
    cache = tmp_path / "torch/hub/checkpoints"
    cache.mkdir(parents=True)
    fetched, both, converted = (
        CARDS[f"{name}_patch1_14"].file for name in ("bcos_vitc_s", "bcos_vitc_ti", "standard_vitc_l")
    )
    names = [fetched, both, both.replace(".pth", ".safetensors"), converted.replace(".pth", ".safetensors")]
    for name in (*names, f"{CARDS['bcos_vitc_b_patch1_14'].file}.partial", "bcos_vit_digits.safetensors", "other.pth"):
        (cache / name).touch()
    assert sorted(doctor()[1]) == [
        "  bcos_vitc_s_patch1_14: bcos_vitc_s_patch1_14-cf55c88f0c.pth",
        "  bcos_vitc_ti_patch1_14: bcos_vitc_ti_patch1_14-ddd6193a77.safetensors",
        "  standard_vitc_l_patch1_14: standard_vitc_l_patch1_14-560e48f246.safetensors",
    ]
    assert len(list(cache.iterdir())) == 7  # only looked at


@pytest.mark.parametrize("arguments", [[], ["models"], ["explain"], ["convert"], ["doctor"]])
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
