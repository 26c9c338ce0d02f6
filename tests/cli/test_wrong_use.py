"""Wrong use of ``bcos-vit explain``: status 2, one sentence that says what to do, and nothing is written."""

import re
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bcos_vit import create_model, save_model
from bcos_vit.cli.main import main
from toys import toy

UNTRAINED = "bcos_vitc_ti_rope_patch1_14"  # nobody has trained it yet
PUBLISHED = "bcos_vitc_ti_patch1_14"


@pytest.fixture
def refused(command, photo, tmp_path):
    """The sentence with which a call is refused."""

    def call(*arguments, out=tmp_path / "out"):
        there = sorted(tmp_path.rglob("*"))
        said = command("explain", photo, "--out", out, *arguments)
        assert (said.status, said.out) == (2, "")
        assert sorted(tmp_path.rglob("*")) == there
        (line,) = said.err.splitlines()
        assert line.startswith("bcos-vit explain: ")
        return line.removeprefix("bcos-vit explain: ")

    return call


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        ("wolv", r"no class is named 'wolv', did you mean 'wolf'\?"),
        ("5", "class 5 is out of range: the classes are 0 to 4"),
        ("0,,1", "a target is empty: "),
        ("", "a target is empty: "),
        ("top0", "top0 is impossible"),
        ("top6", "top6 is impossible"),
        ("1-vs-wolf", "1-vs-wolf compares class 1 with itself"),
        ("crane", "'crane' stands for several classes: say '#3' or '#4'"),
    ],
)
def test_targets_that_make_no_sense(refused, model_file, targets, sentence):
    assert re.match(sentence, refused("--model", model_file, "--targets", targets))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["bcos_vitc_ti_patch_14"],
            "no model is named 'bcos_vitc_ti_patch_14', did you mean 'bcos_vitc_ti_patch1_14'?",
        ),
        (["", "--random-weights", "0"], "no model is named ''; valid are: bcos_simple_vit_b_patch16_224, "),
        (["no/such.safetensors"], "there is no weights file no/such.safetensors"),
        (["no/such.safetensors", "--random-weights", "0"], "no/such.safetensors is a file with weights: drop --random"),
        ([UNTRAINED, "--random-weights", "-1"], "--random-weights takes a seed from 0 to 2**64 - 1, found -1"),
        ([UNTRAINED, "--random-weights", str(2**64)], "--random-weights takes a seed from 0 to 2**64 - 1, found 184"),
        (["standard_vit_digits", "--random-weights", "0"], "this is a conventional model, not dynamic linear"),
    ],
)
def test_models_that_are_none(refused, arguments, sentence):
    assert refused("--model", *arguments).startswith(sentence)


def test_a_name_without_weights_needs_to_be_asked_for_random_ones(refused):
    assert refused("--model", UNTRAINED) == (
        f"{UNTRAINED} has no trained weights, nobody has trained it yet: train it, or take random weights, with "
        "pretrained=False (evaluate.py: model.pretrained=false; bcos-vit: --random-weights 0)"
    )


@pytest.mark.parametrize("mirror", [None, "https://mirror.example/weights/"])
def test_published_weights_that_may_not_be_fetched_are_said_to_be_put_into_the_cache(
    refused, tmp_path_factory, monkeypatch, mirror
):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BCOS_VIT_CACHE", str(cache))
    if mirror is not None:
        monkeypatch.setenv("BCOS_VIT_MIRROR", mirror)
    folder = "https://github.com/B-cos/B-cos-v2/releases/download/v0.0.1-weights/" if mirror is None else mirror
    assert refused("--model", PUBLISHED) == (
        f"the weights of {PUBLISHED} are not in {cache}, and nothing may be fetched (BCOS_VIT_OFFLINE, or "
        f"offline=True): fetch {folder}{PUBLISHED}-ddd6193a77.pth elsewhere and put it into {cache}"
    )
    assert {path.suffix for path in cache.iterdir()} <= {".lock"}


def test_a_file_is_trained_anyway(refused, model_file):
    sentence = refused("--model", model_file, "--random-weights", 0)
    assert sentence == f"{model_file} is a file with weights: drop --random-weights"


def test_a_conventional_model_from_a_file_has_nothing_to_explain(refused, tmp_path):
    save_model(create_model("standard_vit_digits"), tmp_path / "twin.safetensors")
    assert "explain a B-cos model" in refused("--model", tmp_path / "twin.safetensors")


def test_a_file_that_holds_no_model(refused, tmp_path):
    path = tmp_path / "text.safetensors"
    path.write_text("no weights")
    assert refused("--model", path).startswith(f"{path} is neither a safetensors file nor an archive of torch.save: ")


def test_a_file_with_weights_that_are_no_numbers(refused, tmp_path):
    model, path = toy(PUBLISHED), tmp_path / "nan.safetensors"
    save_model(model, path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    spoilt = model.state_dict() | {"head.classify.weight": torch.full_like(model.head.classify.weight, torch.nan)}
    save_file(spoilt, path, metadata)  # save_model would not
    assert refused("--model", path) == f"{path} holds NaN or infinite weights, as in head.classify.weight"


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta"])
def test_a_device_that_is_not_there(refused, model_file, device):
    assert refused("--model", model_file, "--device", device).startswith(f"--device {device} cannot be used: ")


@pytest.mark.parametrize("size", [0, -3])
def test_batches_hold_a_photo_at_least(refused, model_file, size):
    assert refused("--model", model_file, "--batch-size", size) == f"--batch-size must be at least 1, found {size}"


@pytest.mark.parametrize("below", [".", "below/it"])
def test_a_file_in_the_way_of_the_folder(refused, model_file, tmp_path, below):
    (tmp_path / "file").write_text("in the way")
    sentence = refused("--model", model_file, out=tmp_path / "file" / below)
    assert sentence.startswith(f"cannot make the folder {tmp_path / 'file' / below}: ")
    assert sentence.endswith("; give another --out")


def test_a_folder_in_the_way_of_a_result(command, model_file, photo, tmp_path):
    (tmp_path / "cat.1-wolf.safetensors").mkdir()
    said = command("explain", photo, "--model", model_file, "--out", tmp_path, "--targets", "wolf")
    assert (said.status, said.err) == (0, "")
    names = {"cat.1-wolf.safetensors", "cat-2.1-wolf.safetensors", "cat-2.1-wolf.png"}
    assert {p.name for p in tmp_path.iterdir()} == names


def test_a_picture_that_cannot_be_written_leaves_no_numbers_alone(command, model_file, photo, tmp_path, monkeypatch):
    def write_whole(path, content, **options):
        raise OSError(f"cannot write {path}: the disk is full")

    monkeypatch.setattr("bcos_vit.cli.explain.write_whole", write_whole)
    said = command("explain", photo, "--model", model_file, "--out", tmp_path, "--targets", "wolf")
    assert (said.status, said.out) == (1, "")
    assert said.err.splitlines()[0].endswith("cat.1-wolf.png: the disk is full")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_line_that_installs_it_is_said(refused, model_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert refused("--model", model_file).endswith(" is not installed: pip install 'bcos_vit[plot]'")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["explain"],
        ["explain", "a.png"],
        ["explain", "--model", "bcos_vit_digits"],
        ["explain", "a.png", "--model", "bcos_vit_digits", "--batch-size", "many"],
        ["explain", "a.png", "--model", "bcos_vit_digits", "--random-weights", "yes"],
        ["explain", "a.png", "--model", "bcos_vit_digits", "--colour"],
        ["paint"],
    ],
)
def test_arguments_that_are_unknown_or_missing(command, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = command(*arguments)
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("usage: bcos-vit")
    assert not list(tmp_path.iterdir())


def test_debug_raises_instead(photo, tmp_path):
    with pytest.raises(ValueError, match="no model is named 'bcos'"):
        main(["explain", str(photo), "--model", "bcos", "--out", str(tmp_path / "out"), "--debug"])


def test_what_nobody_foresaw_is_a_sentence_too(command, model_file, photo, tmp_path, monkeypatch):
    def explode(*arguments):
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("bcos_vit.cli.explain.explain", explode)
    said = command("explain", photo, "--model", model_file, "--out", tmp_path / "out")
    assert said.status == 1
    assert said.err == "bcos-vit explain: unforeseen ZeroDivisionError: by nothing (--debug shows where)\n"
    with pytest.raises(ZeroDivisionError):
        main(["explain", str(photo), "--model", str(model_file), "--out", str(tmp_path / "out"), "--debug"])
