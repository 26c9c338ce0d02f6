"""``bcos-vit export``: what it hands on and says, and what it refuses; the file itself has tests of its own."""

import json
from dataclasses import replace

import pytest
import torch
from onnxruntime import InferenceSession

from bcos_vit import create_model
from bcos_vit.models.zoo import CARDS
from bcos_vit.photos import read_photo
from commands import NAMES
from hostile import picture

TWIN = "standard_vit_digits"
NOTE = (
    f"note: {TWIN} is a conventional model: it has no linear map to read off, so that its file predicts but cannot "
    "explain\n"
)
UNTRAINED = "bcos_vitc_ti_rope_patch1_14"  # nobody has trained it yet


@pytest.fixture
def photos(tmp_path):
    """Two photos of different shapes, in a folder of their own."""
    (tmp_path / "photos").mkdir()
    paths = [tmp_path / "photos" / f"{name}.png" for name in "ab"]
    for seed, path in enumerate(paths):
        picture(80, 60 + 30 * seed, seed=seed).save(path)
    return paths


@pytest.fixture
def calls(monkeypatch):
    """What the library is asked for, without its doing it."""
    seen = []

    def to_onnx(model, path, **options):
        seen.append((model, path, options))
        return "the certificate in words"

    monkeypatch.setattr("bcos_vit.cli.export.to_onnx", to_onnx)
    return seen


@pytest.fixture
def refused(command, tmp_path):
    """The sentence with which a call is refused; nothing is written or lost."""

    def call(*arguments, out="model.onnx"):
        there = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
        said = command("export", "--out", tmp_path / out, *arguments)
        assert (said.status, said.out) == (2, "")
        assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == there
        return said.err.splitlines()[-1].removeprefix("bcos-vit export: ")

    return call


def test_a_file_and_its_certificate_in_words(command, tmp_path, photos, monkeypatch):
    card = CARDS[TWIN]
    monkeypatch.setitem(CARDS, TWIN, replace(card, spec=replace(card.spec, depth=1)))
    state = torch.get_rng_state()
    arguments = ("--model", TWIN, "--random-weights", 7, "--images", *photos)
    said = command("export", "--out", tmp_path / "model.onnx", *arguments)
    assert (said.status, said.err) == (0, NOTE)
    assert torch.equal(torch.get_rng_state(), state)
    first, random, real = said.out.splitlines()
    kept = json.loads((tmp_path / "model.onnx.json").read_text())
    assert first == f"model.onnx: {kept['bytes'] / 1e6:.1f} MB, float32, SHA-256 {kept['sha256']}"
    assert random.startswith("3 random images: top-1 agreement 100 %; largest errors ")
    assert real.startswith("2 real images: ")
    assert kept["real"]["images"] == 2
    assert max(kept["real"]["errors"].values()) <= 1e-5
    file = InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    about = file.get_modelmeta().custom_metadata_map
    assert about["name"] == f"{TWIN}, random weights, seed 7"
    assert about["explains"].startswith("no: ")
    torch.manual_seed(7)
    model = create_model(TWIN)
    images = torch.stack([model.transform(read_photo(path)) for path in photos])
    logits, *_ = file.run(None, {"image": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(images).detach())


def test_a_file_with_weights_keeps_its_name(command, calls, tmp_path, model_file):
    assert command("export", "--out", tmp_path / "model.onnx", "--model", model_file).status == 0
    ((model, _, _),) = calls
    assert model.about == create_model(model_file).about
    assert model.class_names == NAMES


def test_trained_weights_by_default(command, calls, tmp_path):
    said = command("export", "--out", tmp_path / "a.onnx", "--model", "bcos_vit_digits")
    assert said == (0, "the certificate in words\n", "")
    ((model, path, options),) = calls
    assert path == tmp_path / "a.onnx"
    assert options == dict(targets="predicted", weights=False, precision="float32", images=None, replace=False)
    trained = create_model("bcos_vit_digits", pretrained=True)
    assert model.about == trained.about
    assert torch.equal(model.head.classify.weight, trained.head.classify.weight)


def test_options_are_handed_on(command, calls, tmp_path, photos):
    words = ("--targets", "input", "--weights", "--precision", "float16", "--images", *photos, "--random-weights", "3")
    assert command("export", "--out", tmp_path / "a.onnx", "--model", UNTRAINED, *words).status == 0
    ((model, _, options),) = calls
    images = options.pop("images")
    assert options == dict(targets="input", weights=True, precision="float16", replace=False)
    assert torch.equal(images[1], model.transform(read_photo(photos[1])))
    assert images.shape == (2, 3, 224, 224)
    assert model.about["name"] == f"{UNTRAINED}, random weights, seed 3"


@pytest.mark.parametrize("name", ["there.onnx", "folder.onnx", "certified.onnx"])
def test_what_is_there_is_not_replaced(refused, tmp_path, name):
    (tmp_path / "there.onnx").write_bytes(b"mine")
    (tmp_path / "certified.onnx.json").write_bytes(b"mine")
    (tmp_path / "folder.onnx").mkdir()
    sentence = refused("--model", "bcos_vit_digits", out=name)
    found = tmp_path / f"{name}.json" if name == "certified.onnx" else tmp_path / name
    assert sentence == f"{found} exists: remove it, or give another name"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([UNTRAINED], f"{UNTRAINED} has no trained weights, nobody has trained it yet: "),
        (["bcos_vit_digit"], "no model is named 'bcos_vit_digit', did you mean 'bcos_vit_digits'?"),
        (["no/such.safetensors"], "there is no weights file no/such.safetensors"),
        ([UNTRAINED, "--random-weights", "-1"], "--random-weights takes a seed from 0 to 2**64 - 1, found -1"),
        ([TWIN, "--weights"], "a conventional model has no linear map to read off, so that its file"),
        ([TWIN, "--targets", "input"], "a conventional model has no linear map to read off, so "),
        (["bcos_vit_digits", "--images", "none.png"], "there is no file none.png"),
        (["bcos_vit_digits", "--targets", "top5"], "error: argument --targets: invalid choice: 'top5'"),
        (["bcos_vit_digits", "--precision", "int4"], "error: argument --precision: invalid choice: 'int4'"),
    ],
)
def test_wrong_use_is_a_sentence(refused, arguments, sentence):
    assert refused("--model", *arguments).startswith(sentence)


def test_other_suffixes_are_refused(refused, tmp_path):
    sentence = refused("--model", "bcos_vit_digits", out="model.pt")
    assert sentence == f"an ONNX file ends in .onnx, found {tmp_path / 'model.pt'}"


def test_a_file_that_is_not_exact_is_no_success(command, monkeypatch, tmp_path):
    def wrong(*_, **__):
        raise ArithmeticError("model.onnx was not written, since it differs")

    monkeypatch.setattr("bcos_vit.cli.export.to_onnx", wrong)
    said = command("export", "--out", tmp_path / "model.onnx", "--model", "bcos_vit_digits")
    assert said.status != 0
    assert "model.onnx was not written, since it differs" in said.err
    assert len(said.err.splitlines()) == 1


def test_its_help(command):
    said = command("export", "--help")
    assert (said.status, said.err) == (0, "")
    for option in ("--model", "--out", "--targets", "--weights", "--precision", "--images", "--random-weights"):
        assert option in said.out
