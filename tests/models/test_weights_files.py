"""Weights files: what they keep, and the sentences for files that cannot be read or written."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bcos_vit import ViT, atomic, create_model, save_model
from bcos_vit.models.weights import read_checkpoint
from toys import deviation, images_for, toy

# --- what they keep ---


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("bcos_vitc_ti_patch1_14", {"b": 1.5, "max_out": 2, "value": "bcos", "head": "tokens", "logit_bias": -0.25}),
        ("bcos_simple_vit_s_patch16_224", {"position": "prior"}),
        ("standard_vitc_b_patch1_14", {}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_files_keep_a_model_exactly(tmp_path: Path, name: str, fields: dict[str, Any], dtype: torch.dtype) -> None:
    model = toy(name, dtype=dtype, **fields)
    model.class_names = ("a", "b", "c", "d", "ö")
    path = tmp_path / "model.safetensors"
    save_model(model, path, about={"epochs": 3})
    again = create_model(path)
    assert again.spec == model.spec
    assert again.class_names == model.class_names
    assert not again.training
    assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())
    # Not bitwise: the same numbers may lie elsewhere in memory, and sums depend on their alignment.
    assert deviation(again(images_for(model)), model(images_for(model))) <= (1e-6 if dtype == torch.float32 else 1e-14)
    assert again.transform(Image.new("L", (50, 60))).shape == (3, model.spec.image_size, model.spec.image_size)
    assert create_model(str(path)).spec == model.spec
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["about"]) == {"epochs": 3}


def test_files_without_names_and_of_models_in_training(tmp_path: Path) -> None:
    model = toy("bcos_vit_digits").train()
    save_model(model, tmp_path / "model.safetensors")
    again = create_model(tmp_path / "model.safetensors")
    assert again.class_names is None
    assert model.training  # saving does not change the mode
    assert all(p.requires_grad for p in again.parameters())  # it can go on learning


def test_a_file_is_overwritten_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(toy("bcos_vit_digits"), path)
    save_model(toy("bcos_vit_digits", seed=1), path)
    assert torch.equal(load_file(path)["head.norm.weight"], toy("bcos_vit_digits", seed=1).head.norm.weight)
    assert list(tmp_path.iterdir()) == [path]


# --- what cannot be read ---


def test_missing_files(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path, str(tmp_path / "none"), "none.safetensors"):
        with pytest.raises(FileNotFoundError, match="there is no weights file"):
            create_model(path)


def test_files_hold_their_own_spec(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(toy("bcos_vit_digits"), path)
    with pytest.raises(TypeError, match=r"model\.safetensors holds its own spec and weights, with depth 2: drop depth"):
        create_model(path, num_classes=5, depth=1)
    again = create_model(path, num_classes=5, depth=2)  # what is so anyway may be said
    assert again.spec == toy("bcos_vit_digits").spec


def test_files_are_trained_anyway(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = toy("bcos_vit_digits")
    save_model(model, path)
    for pretrained in (True, False):
        again = create_model(path, pretrained=pretrained)
        assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02}q\x00.", b"no weights at all" * 9], ids=["empty", "pickle", "text"]
)
def test_files_that_are_no_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is (not|neither) a safetensors file"):
        create_model(path)


def _rewrite(path: Path, changes: dict[str, str | None], tensors: dict[str, torch.Tensor | None]) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | changes
    state = load_file(path) | tensors
    kept = {name: text for name, text in metadata.items() if text is not None}
    save_file({name: t for name, t in state.items() if t is not None}, path, kept)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "does not say which model its weights belong to"),
        ("pt", "does not say which model its weights belong to"),
        ("bcos_vit explanation 1", "no weights file of bcos_vit.*bcos_vit explanation 1"),
    ],
)
def test_files_of_others(tmp_path: Path, found: str | None, message: str) -> None:
    path = tmp_path / "model.safetensors"
    save_model(toy("bcos_vit_digits"), path)
    _rewrite(path, {"format": found}, {})
    with pytest.raises(ValueError, match=message):
        create_model(path)


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        ("head.norm.weight", None, "1 missing: head.norm.weight$"),
        ("head.norm.bias", torch.ones(16), "1 unexpected: head.norm.bias$"),
        (
            "blocks.1.mlp.expand.weight",
            torch.ones(3, 4),
            r"1 of another shape: blocks.1.mlp.expand.weight \(3, 4\) for \(\d+, \d+\)$",
        ),
    ],
    ids=["missing", "surplus", "shape"],
)
def test_files_with_wrong_tensors(tmp_path: Path, key: str, tensor: torch.Tensor | None, message: str) -> None:
    path = tmp_path / "model.safetensors"
    save_model(toy("bcos_vit_digits"), path)
    _rewrite(path, {}, {key: tensor})
    with pytest.raises(ValueError, match=f"does not fit its model, tensors are {message}"):
        create_model(path)


@pytest.mark.parametrize(
    "spec", [None, "{", "[]", json.dumps({"family": "bcos"})], ids=["none", "broken", "list", "incomplete"]
)
def test_files_with_a_spoilt_spec(tmp_path: Path, spec: str | None) -> None:
    path = tmp_path / "model.safetensors"
    save_model(toy("bcos_vit_digits"), path)
    _rewrite(path, {"spec": spec}, {})
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        create_model(path)


def test_files_that_say_something_twice(tmp_path: Path) -> None:
    path, model = tmp_path / "model.safetensors", toy("bcos_vit_digits")
    save_model(model, path)
    _rewrite(path, {"spec": json.dumps(dataclasses.asdict(model.spec))[:-1] + ', "width": 16}'}, {})
    with pytest.raises(ValueError, match=r"model\.safetensors holds no usable spec: .*names something twice"):
        create_model(path)


# --- what cannot be written ---


def test_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.safetensors, found .*model\.pth"):
        save_model(toy("bcos_vit_digits"), tmp_path / "model.pth")
    assert not list(tmp_path.iterdir())


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy("bcos_vit_digits")
    with pytest.raises(FileNotFoundError, match=r"cannot write .*none.*give a path in a folder"):
        save_model(model, tmp_path / "none" / "model.safetensors")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"cannot write .*file.*give a path in a folder"):
        save_model(model, tmp_path / "file" / "model.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.safetensors: it is a folder"):
        save_model(model, tmp_path / "folder.safetensors")

    def refuse(*_: object) -> NoReturn:  # permissions do not stop a superuser, who may run the tests
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match=r"cannot write .*model\.safetensors: Permission denied"):
        save_model(model, tmp_path / "model.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.safetensors"]


@pytest.mark.parametrize("nameless", [True, False], ids=["without a name", "hidden"])
def test_a_write_that_breaks_off_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool
) -> None:
    path = tmp_path / "model.safetensors"
    save_model(toy("bcos_vit_digits"), path)
    before = path.read_bytes()

    def break_off(descriptor: int, *_: object, **__: object) -> NoReturn:
        os.write(descriptor, b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    if not nameless:
        monkeypatch.setattr(atomic, "_open_nameless", lambda folder: None)
    monkeypatch.setattr(os, "fdopen", break_off)
    for target in (path, tmp_path / "other.safetensors"):
        with pytest.raises(OSError, match=f"cannot write {target}: No space left on device"):
            save_model(toy("bcos_vit_digits", seed=1), target)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# --- checkpoints of a training run ---


def _checkpoint(path: Path, **changes: Any) -> ViT:
    """What training keeps, at ``path``; a change to None leaves the key out."""
    model = toy("bcos_vit_digits")
    content = {
        "state_dict": {f"model.{key}": tensor for key, tensor in model.state_dict().items()},
        "hyper_parameters": {"spec": dataclasses.asdict(model.spec), "recipe": {"seed": 0}},
        "class_names": list("abcde"),
    }
    torch.save({key: value for key, value in (content | changes).items() if value is not None}, path)
    return model


def test_checkpoints_are_read_like_weights(tmp_path: Path) -> None:
    model = _checkpoint(tmp_path / "best.ckpt")
    again = create_model(tmp_path / "best.ckpt")
    assert (again.spec, again.class_names, again.training) == (model.spec, tuple("abcde"), False)
    assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())
    with pytest.raises(TypeError, match=r"best\.ckpt holds its own spec and weights, with depth 2: drop depth"):
        create_model(tmp_path / "best.ckpt", depth=3)


@pytest.mark.parametrize("missing", ["state_dict", "hyper_parameters", "class_names"])
def test_checkpoints_of_others_are_not_gone_on_with(tmp_path: Path, missing: str) -> None:
    _checkpoint(tmp_path / "best.ckpt", **{missing: None})
    with pytest.raises(ValueError, match=f"best.ckpt is no checkpoint of bcos_vit's training: .*{missing}"):
        read_checkpoint(tmp_path / "best.ckpt")


def test_checkpoints_without_a_model_or_without_weights(tmp_path: Path) -> None:
    _checkpoint(tmp_path / "best.ckpt", hyper_parameters=None)
    with pytest.raises(ValueError, match=r"best\.ckpt does not say which model its weights belong to"):
        create_model(tmp_path / "best.ckpt")
    _checkpoint(tmp_path / "best.ckpt", state_dict=None)
    with pytest.raises(ValueError, match=r"best\.ckpt is no state dict: 'hyper_parameters' is no tensor"):
        create_model(tmp_path / "best.ckpt")


def test_checkpoints_whose_tensors_do_not_fit(tmp_path: Path) -> None:
    _checkpoint(tmp_path / "best.ckpt", state_dict={"model.head.norm.weight": torch.ones(16)})
    with pytest.raises(ValueError, match=r"best\.ckpt does not fit its model, tensors are \d+ missing: blocks"):
        create_model(tmp_path / "best.ckpt")


def test_checkpoints_run_nothing(tmp_path: Path) -> None:
    _checkpoint(tmp_path / "best.ckpt", callbacks=Touches(tmp_path / "ran"))
    with pytest.raises(ValueError, match=r"best\.ckpt cannot be read safely: it asks for '__builtin__ getattr'"):
        create_model(tmp_path / "best.ckpt")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Touches(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()  # it would have


class Touches:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all"], ids=["empty", "text"])
def test_files_that_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "best.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"best\.ckpt is (not|neither) a safetensors file"):
        create_model(tmp_path / "best.ckpt")
