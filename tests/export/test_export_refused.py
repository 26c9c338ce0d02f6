"""What is not exported: each with a sentence, before anything is made, and nothing is left or lost on disk."""

import sys

import pytest
import torch
from torch import nn

from bcos_vit import create_model
from bcos_vit.export import to_onnx, to_program

CONVENTIONAL = r"^a conventional model has no linear map to read off, so that its file can predict but not explain: "


@pytest.fixture
def twin():
    return create_model("standard_vit_digits", depth=1)


@pytest.fixture
def model():
    return create_model("bcos_vit_digits", depth=1)


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """That a call is refused in a sentence, before anything is traced, and leaves the folder as it was."""

    def call(model, sentence, *arguments, path=tmp_path / "model.onnx", error=ValueError, **options):
        monkeypatch.setattr("bcos_vit.export.graph.make_fx", None)
        (tmp_path / "model.onnx").write_bytes(b"mine")
        with pytest.raises(error, match=sentence):
            to_onnx(model, path, *arguments, **options)
        assert [file.name for file in tmp_path.rglob("*")] == ["model.onnx"]
        assert (tmp_path / "model.onnx").read_bytes() == b"mine"

    return call


def test_other_suffixes(refused, model, tmp_path):
    for name in ("model.pt2", "model", "model.onnx.json", "model.ONNX"):
        refused(model, rf"^an ONNX file ends in \.onnx, found .*{name}$", path=tmp_path / name)


def test_a_folder_that_is_not_there(refused, model, tmp_path):
    path = tmp_path / "none" / "model.onnx"
    refused(model, f"^there is no folder {path.parent} to write model.onnx to$", path=path, error=FileNotFoundError)


def test_other_precisions_and_targets(refused, model):
    refused(model, "^precision must be one of float32, float16, int8, found 'bfloat16'$", precision="bfloat16")
    refused(model, "^targets must be 'predicted' or 'input', found 'top5'$", "top5")
    with pytest.raises(ValueError, match=r"^targets must be 'predicted' or 'input', found 3$"):
        to_program(model, 3)


def test_int8_by_an_old_onnxruntime(refused, model, monkeypatch):
    monkeypatch.setattr("bcos_vit.extras.version", lambda package: "1.30.0")
    sentence = "^precision int8 needs onnxruntime 1.31 or later, found 1.30.0: pip install -U onnxruntime$"
    refused(model, sentence, precision="int8", error=ImportError)


@pytest.mark.parametrize("asked", [dict(weights=True), dict(targets="input")])
def test_explanations_of_a_twin(refused, twin, asked):
    refused(twin, CONVENTIONAL, **asked)
    with pytest.raises(ValueError, match=CONVENTIONAL):
        to_program(twin, **asked)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_models_that_are_not_float32(refused, model, dtype):
    refused(model.to(dtype), rf"^a file is compared .* float32, found {dtype}: convert it with \.float\(\)$")


@pytest.mark.parametrize("thing", [nn.Linear(2, 2), torch.compile(nn.ReLU()), "bcos_vit_digits", None])
def test_what_is_no_model_of_ours(refused, thing):
    found = "ReLU" if isinstance(thing, nn.Module) and not isinstance(thing, nn.Linear) else type(thing).__name__
    sentence = rf"^a model of this project is needed, found {found}$"
    refused(thing, sentence, error=TypeError)
    with pytest.raises(TypeError, match=sentence):
        to_program(thing)


@pytest.mark.parametrize(
    ("images", "error", "sentence"),
    [
        (torch.rand(2, 3, 8, 10), ValueError, r"images must be \(N, 3, 8, 8\), .*, found \(2, 3, 8, 10\)"),
        (torch.rand(3, 8, 8), ValueError, r"images must be \(N, 3, 8, 8\), .*, found \(3, 8, 8\)"),
        (torch.rand(2, 6, 8, 8), ValueError, r"found \(2, 6, 8, 8\)"),
        (torch.rand(0, 3, 8, 8), ValueError, r"there are no images to look at: the shape is \(0, 3, 8, 8\)"),
        (torch.full((1, 3, 8, 8), 1.5), ValueError, r"must lie in \[0, 1\], found 1\.5 to 1\.5"),
        (torch.full((1, 3, 8, 8), torch.nan), ValueError, "images hold NaN"),
        (torch.ones(1, 3, 8, 8, dtype=torch.uint8), TypeError, r"found torch\.uint8: divide bytes by 255"),
        ([1, 2], TypeError, r"images must be a torch\.Tensor, found list"),
    ],
)
def test_images_that_do_not_fit(refused, model, images, error, sentence):
    refused(model, sentence, images=images, error=error)


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_missing_packages_are_named_with_the_line_that_installs_them(refused, model, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    sentence = rf"^{package} is not installed: pip install 'bcos_vit\[export\]'$"
    refused(model, sentence, error=ImportError)


def test_without_scikit_learn_images_of_ones_own_are_needed(refused, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets.images", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    refused(model, r"^sklearn.* is not installed: pip install 'bcos_vit\[export\]'$", error=ImportError)
