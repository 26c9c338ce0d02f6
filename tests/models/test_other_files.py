"""Files and folders that hold no weights: a sentence says what they are, and what is read."""

import gzip
import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from bcos_vit import create_model, save_model
from bcos_vit.models.weights import is_weights_file


def image(form):
    content = io.BytesIO()
    Image.new("RGB", (3, 2)).save(content, form)
    return content.getvalue()


def zipped(*names):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return content.getvalue()


def saved(function, *values):
    content = io.BytesIO()
    function(content, *values)
    return content.getvalue()


FILES = {
    "mine.onnx": (b"\x08\x0a\x12\x07pytorch\x1a\x052.9.0:\xff\x01", "an ONNX file"),
    "renamed.safetensors": (b"\x08\x0a\x12\x07pytorch\x1a\x052.9.0:\xff\x01", "an ONNX file"),
    "photo.png": (image("PNG"), r"a picture \(PNG\)"),
    "photo.pth": (image("JPEG"), r"a picture \(JPEG\)"),
    "photo.webp": (image("WEBP"), r"a picture \(WebP\)"),
    "model.h5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
    "config.json": (b'{"family": "bcos"}', "JSON, such as a card or a config"),
    "list.json": (b'\n[{"family": "bcos"}]', "JSON"),
    "failed.pth": (b"\n<!DOCTYPE html><html>404 Not Found</html>", "an HTML or XML page"),
    "empty.safetensors": (b"", "empty"),
    "three.ckpt": (b"abc", "text"),
    "notes.txt": ("H\u00f6he und Breite der Bilder".encode(), "text"),
    "pointer.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of git LFS"),
    "model.pt2": (zipped("m/archive_format", "m/models/model.json"), "a program of torch.export"),
    "script.pt": (zipped("m/data.pkl", "m/constants.pkl", "m/code/a.py"), "a TorchScript program"),
    "mine.keras": (zipped("config.json", "model.weights.h5"), "a Keras model"),
    "arrays.npz": (saved(np.savez, np.ones(3)), r"a file of NumPy arrays \(\.npz\)"),
    "array.npy": (saved(np.save, np.ones(3)), "a NumPy array"),
    "weights.pth.gz": (gzip.compress(bytes(99)), "a gzip archive"),
    "noise.bin": (bytes(range(128, 256)) + bytes(range(256)), "damaged, or of a kind that is not known|a pickle"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_a_file_is_is_said(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content, kind = FILES[name]
    (tmp_path / name).write_bytes(content)
    for given in (name, tmp_path / name):
        with pytest.raises(ValueError, match=rf"{name} .*: it is ({kind}).*weights are read from files of save_model"):
            create_model(given)


@pytest.mark.parametrize("name", ["mine.onnx", "mine.unknown", "./mine"])
def test_a_file_that_is_not_there(name):
    with pytest.raises(FileNotFoundError, match=f"there is no weights file {name.removeprefix('./')}$"):
        create_model(name)


def test_a_file_that_was_cut_off(tmp_path):
    save_model(create_model("bcos_vit_digits"), tmp_path / "whole.safetensors")
    content = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:500])
    with pytest.raises(ValueError, match=r"cut\.safetensors .*: it ends within its header, copy or fetch it again"):
        create_model(tmp_path / "cut.safetensors")


def test_a_folder_is_the_model_in_it_or_says_what_it_lacks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match=r"no weights file mine/model\.safetensors$"):
        create_model("mine")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=r"but the folder holds mine/checkpoints/last\.ckpt: give"):
        create_model("mine")
    model = create_model("bcos_vit_digits")
    save_model(model, folder / "model.safetensors")
    assert torch.equal(create_model("mine").get_classifier().weight, model.get_classifier().weight)


def test_a_name_of_the_zoo_is_never_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bcos_vit_digits").mkdir()
    assert not is_weights_file("bcos_vit_digits")
    assert not is_weights_file("")
    assert create_model("bcos_vit_digits", pretrained=True).about["name"] == "bcos_vit_digits"


def test_a_licence_is_said_once(tmp_path, caplog):
    save_model(create_model("bcos_vit_digits", pretrained=True), tmp_path / "mine.safetensors")
    create_model(tmp_path / "mine.safetensors")
    assert [message.partition(";")[0] for message in caplog.messages] == [
        "mine.safetensors: licence: weights Apache-2.0"
    ]
