"""Folders of models that are not what they should be, as anyone may have made them."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bcos_vit import ViT
from toys import toy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    toy("bcos_vit_digits").save_pretrained(tmp_path)
    return tmp_path


def changed(folder: Path, **fields: Any) -> str:
    spec = json.loads((folder / "config.json").read_text()) | fields
    return json.dumps({name: value for name, value in spec.items() if value != "left out"})


@pytest.mark.parametrize(
    "config",
    ["", "{", "[1]", "null", "5", "[" * 10**5, b"\xff\xfe", "{}", json.dumps({"architectures": ["ViTModel"]})],
    ids=["empty", "broken", "list", "null", "number", "deep", "bytes", "nothing", "another library's"],
)
def test_a_configuration_that_is_none(folder: Path, config: str | bytes) -> None:
    (folder / "config.json").write_bytes(config.encode() if isinstance(config, str) else config)
    with pytest.raises(ValueError, match=f"the config.json of {folder} is no spec of a model: .") as error:
        ViT.from_pretrained(folder)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "fields", [{"depth": "left out"}, {"depth": -1}, {"stem": 5}, {"b": "2"}, {"foo": 1}, {"depth": None}], ids=str
)
def test_a_configuration_that_describes_no_model(folder: Path, fields: dict[str, Any]) -> None:
    (folder / "config.json").write_text(changed(folder, **fields))
    with pytest.raises(ValueError, match=f"the config.json of .* is no spec of a model: .*{next(iter(fields))}"):
        ViT.from_pretrained(folder)


@pytest.mark.parametrize("fields", [{"depth": 3}, {"heads": 1}, {"position": "none"}, {"logit_bias": 0.5}, {"b": 1}])
def test_a_configuration_of_another_model(folder: Path, fields: dict[str, Any]) -> None:
    (folder / "config.json").write_text(changed(folder, **fields))
    with pytest.raises(ValueError, match=rf"model\.safetensors holds a model of another {next(iter(fields))}$"):
        ViT.from_pretrained(folder)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_folders_that_are_not_whole(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing.replace(".", r"\.")):
        ViT.from_pretrained(folder)
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match=f"there is no folder {folder}"):
        ViT.from_pretrained(folder)


class Touches:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def _pickle(path: Path) -> bytes:
    return pickle.dumps(Touches(path))


def _archive(path: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"head.norm.weight": Touches(path)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "make",
    [_pickle, _archive, lambda _: b"", lambda _: (2**60).to_bytes(8, "little") + b"{}"],
    ids=["pickle", "archive", "empty", "huge header"],
)
def test_hostile_weights_run_nothing(folder: Path, make: Callable[[Path], bytes]) -> None:
    (folder / "model.safetensors").write_bytes(make(folder / "ran"))
    with pytest.raises(ValueError, match=r"model\.safetensors (is not|is neither|cannot be read safely)"):
        ViT.from_pretrained(folder)
    assert not (folder / "ran").exists()


def test_overrides_that_do_not_fit(folder: Path) -> None:
    with pytest.raises(TypeError, match="unknown override 'depht', did you mean 'depth'"):
        ViT.from_pretrained(folder, depht=3)
    with pytest.raises(TypeError, match="holds its own spec and weights, with depth 2: drop depth"):
        ViT.from_pretrained(folder, depth=3)
    with pytest.raises(ValueError, match="image_size 7 must be a multiple of patch_size 2"):
        ViT.from_pretrained(folder, image_size=7)
