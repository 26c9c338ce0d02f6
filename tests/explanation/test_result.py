"""What an explanation can do: be indexed, moved, turned into arrays, and kept in files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bcos_vit import Combination, Contrast, Explanation, TopK, Unit, explain, save_model
from bcos_vit.models.vit import ViT
from laws import TENSORS, assert_equal
from toys import NAME, images_for, toy

# --- indexing, devices, arrays ---


def test_indexing(model: ViT, images: Tensor) -> None:
    e = explain(model, images, TopK(2))
    assert len(e) == 3
    for index in (0, 1, -1):
        single = e[index]
        for name in TENSORS:
            whole = getattr(e, name)
            assert whole is None or torch.equal(getattr(single, name), whole[index]), name
        for name, t in e.constants.items():
            assert torch.equal(single.constants[name], t[index])
        assert single.images.shape == (3, 12, 12)
        assert torch.equal(single.image_share, e.image_share[index])
        assert torch.equal(single.relative_residual, e.relative_residual[index])
        single.check()
    part = e[:2]
    assert len(part) == 2
    assert part.images.shape == (2, 3, 12, 12)
    assert torch.equal(part.weights, e.weights[:2])
    assert torch.equal(part.constants["bias"], e.constants["bias"][:2])
    assert len(e[1:2]) == 1
    assert [single.target.tolist() for single in e] == e.target.tolist()
    for wrong in (3, -4):
        with pytest.raises(IndexError):
            e[wrong]
    for wrong in ("x", 1.0, None, (0, 1)):
        with pytest.raises(TypeError, match=f"number or a slice, found {type(wrong).__name__}"):
            e[wrong]
    with pytest.raises(TypeError, match=r"single image.*no batch axis"):
        e[0][0]
    with pytest.raises(TypeError, match=r"single image.*no batch axis"):
        len(e[0])


def test_indices_of_other_libraries_and_empty_slices(model: ViT, images: Tensor) -> None:
    e = explain(model, images)
    assert torch.equal(e[np.int64(1)].logit, e[1].logit)
    with pytest.raises(TypeError, match="found bool"):
        e[True]
    nothing = e[len(e) :]
    assert len(nothing) == 0
    assert nothing.colour().shape == (0, 4, *images.shape[2:])
    with pytest.raises(ValueError, match="nothing to draw"):
        nothing.plot()
    assert bool(e[0])


def test_to(model: ViT, images: Tensor) -> None:
    e = explain(model, images, Contrast(0, 1))
    assert_equal(e.to("cpu"), e)
    assert_equal(e.to(torch.device("cpu")), e)
    on_meta = e.to("meta")
    assert on_meta.weights.is_meta
    assert on_meta.against.is_meta
    assert all(t.is_meta for t in on_meta.constants.values())


def test_arrays(model: ViT, images: Tensor) -> None:
    e = explain(model, images, [[0, 1], [2, 3], [4, 0]])
    arrays = e.numpy()
    fields = {"images", "target", "logit", "probability", "contributions", "magnitude", "weights"}
    lines = {"image", "residual", "relative_residual", "image_share", "constants.position", "constants.bias"}
    assert arrays.keys() == fields | lines
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    for name in fields | lines - {"constants.position", "constants.bias"}:
        assert np.array_equal(arrays[name], getattr(e, name).numpy()), name
    assert np.array_equal(arrays["constants.position"], e.constants["position"].numpy())
    contrast = explain(model, images, Contrast(0, 1)).numpy()
    assert contrast.keys() == fields - {"probability"} | lines | {"against"}


# --- files ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "target", [None, [[0, 1], [2, 2], [4, 0]], TopK(5), Contrast(0, 3)], ids=["one", "several", "top", "contrast"]
)
@pytest.mark.parametrize("position", ["sincos", "rope"])
def test_files_keep_everything(tmp_path: Path, dtype: torch.dtype, target: Any, position: str) -> None:
    model = toy(NAME, dtype=dtype, position=position)
    e = explain(model, images_for(model), target)
    for part in (e, e[1:], e[0]):
        part.save(tmp_path / "e.safetensors")
        assert_equal(Explanation.load(tmp_path / "e.safetensors"), part)
    assert [path.name for path in tmp_path.iterdir()] == ["e.safetensors"]


def test_files_keep_the_order_of_the_ledger(model: ViT, images: Tensor, tmp_path: Path) -> None:
    e = explain(model, images)
    e.save(tmp_path / "e.safetensors")
    assert list(Explanation.load(tmp_path / "e.safetensors").constants) == list(e.constants) == ["position", "bias"]


@pytest.mark.parametrize(
    ("target", "at"),
    [
        (Unit("blocks.0", 3, 1), None),
        (TopK(2), "blocks.1"),
        (Contrast(2), None),
        (Combination([1, 0, -2, 0, 0]), "tokens"),
    ],
    ids=repr,
)
def test_files_keep_what_and_where(model: ViT, images: Tensor, tmp_path: Path, target: Any, at: str | None) -> None:
    e, path = explain(model, images, target, at=at), tmp_path / "e.safetensors"
    for part in (e, e[1:], e[0]):
        part.save(path, about={"of": "of no effect", "at": "home"})
        found = Explanation.load(path)
        assert_equal(found, part)
        assert (found.of, found.at) == (e.of, e.at)
        assert repr(found) == repr(part)


def test_files_from_before_there_were_units_stages_and_shifts(model: ViT, images: Tensor, tmp_path: Path) -> None:
    e, path = explain(model, images, TopK(2)), tmp_path / "e.safetensors"
    e.save(path)
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert (metadata.pop("of"), metadata.pop("at"), metadata.pop("shifts")) == ("logit", "image", "0")
    save_file(tensors, path, metadata)
    found = Explanation.load(path)
    assert_equal(found, e)
    assert (found.of, found.at, found.shifts) == ("logit", "image", 0)


def test_files_of_other_methods(model: ViT, images: Tensor, tmp_path: Path) -> None:
    """No rows, relevance per token, a cost that is no whole number."""
    e = dataclasses.replace(
        explain(model, images), weights=None, tokens=torch.rand(3, 3, 3), method="rollout", cost=0.1, constants={}
    )
    e.save(str(tmp_path / "e.safetensors"))
    assert_equal(Explanation.load(str(tmp_path / "e.safetensors")), e)


def test_files_that_are_no_explanations(model: ViT, images: Tensor, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no explanation file .*none\.safetensors"):
        Explanation.load(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="no explanation file"):
        Explanation.load(tmp_path)
    (tmp_path / "text.safetensors").write_text("no tensors here")
    with pytest.raises(ValueError, match=r"text\.safetensors is not a whole safetensors file"):
        Explanation.load(tmp_path / "text.safetensors")
    save_file({"weights": torch.ones(2)}, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match=r"bare\.safetensors holds no explanation.*None"):
        Explanation.load(tmp_path / "bare.safetensors")
    save_model(model, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors holds no explanation.*'bcos_vit 1'"):
        Explanation.load(tmp_path / "model.safetensors")
    e = explain(model, images)
    with pytest.raises(ValueError, match=r"\.safetensors, found .*e\.npz"):
        e.save(tmp_path / "e.npz")
    with pytest.raises(FileNotFoundError, match=r"cannot write .*none.*give a path in a folder"):
        e.save(tmp_path / "none" / "e.safetensors")
    assert not (tmp_path / "e.npz").exists()


def test_a_spoilt_explanation_file(model: ViT, images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    explain(model, images).save(path)
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del tensors["logit"]
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match=r"e\.safetensors"):
        Explanation.load(path)
