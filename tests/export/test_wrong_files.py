"""A file that does not say what the model says is not put in its place, and what is there keeps its bytes."""

import copy
import shutil

import pytest
import torch

from bcos_vit.export import certificate, onnx, to_onnx
from exported import unseen

OPTIONS = dict(targets="input", weights=True)


@pytest.fixture
def write(monkeypatch, rich, tmp_path):
    """``to_onnx`` with the file of another call, so that it is only verified, in a folder with files already."""
    monkeypatch.setattr(onnx, "to_program", lambda *_: None)
    monkeypatch.setattr(onnx, "_write", lambda program, path, *_: shutil.copy(rich.path, path))
    for name in ("model.onnx", "model.onnx.json"):
        (tmp_path / name).write_bytes(b"mine")

    def call(model=rich.model):
        return to_onnx(model, tmp_path / "model.onnx", **OPTIONS, images=unseen(model, 6))

    return call


@pytest.fixture
def refused(write, tmp_path):
    def call(sentence, **options):
        with pytest.raises(ArithmeticError, match=sentence):
            write(**options)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.json"]
        assert all(file.read_bytes() == b"mine" for file in tmp_path.iterdir())

    return call


@pytest.fixture
def disturb(monkeypatch):
    """Let every file be run with one output changed."""
    run = onnx._run

    def disturbed(name, change, only=None):
        def changed(session, names, images, target):
            found = run(session, names, images, target)
            return found | ({name: change(found[name])} if only is None or len(images) == only else {})

        monkeypatch.setattr(onnx, "_run", changed)

    return disturbed


def test_a_right_file_replaces_what_is_there(write, rich, tmp_path):
    assert write().real.images == 6
    assert (tmp_path / "model.onnx").read_bytes() == rich.path.read_bytes()
    assert (tmp_path / "model.onnx.json").read_text().startswith('{\n  "format": "bcos_vit export certificate 1",')


def test_files_are_measured_against_the_tolerance(refused, monkeypatch):
    monkeypatch.setattr(certificate, "TOLERANCE", 0.0)
    refused(r"model\.onnx was not written, since it differs from PyTorch on random images: its .* is off by \S+, more")


def test_the_file_of_other_weights(refused, rich):
    other = copy.deepcopy(rich.model)
    with torch.no_grad():
        other.head.norm.weight[0] *= 1.01
    refused("differs from PyTorch on random images: its ", model=other)


@pytest.mark.parametrize("name", ["logits", "contributions", "position", "bias", "weights", "residual"])
def test_one_number_that_is_off(refused, disturb, name):
    def change(t):
        t = t.clone()
        t.flatten()[-1] += 6e-5 * max(1.0, float(t.abs().max()))
        return t

    disturb(name, change)
    refused("differs from PyTorch on random images: its ")


@pytest.mark.parametrize("name", ["logits", "contributions", "weights"])
def test_nan_is_off_too(refused, disturb, name):
    disturb(name, lambda t: torch.full_like(t, torch.nan))
    refused("on random images: its .* is off by nan, more than [13]e-05")


def test_another_class_than_the_one_asked_for(refused, disturb):
    disturb("target", lambda t: t.where(t != 2, 3))
    refused(r"on random images: its (target|contributions|weights|relative residual|residual) is off by ")


def test_a_file_that_counts_classes_from_the_end(refused, monkeypatch):
    run = onnx._run
    monkeypatch.setattr(onnx, "_run", lambda session, names, images, target: run(session, names, images, target % 5))
    refused("was not written: on random images a target that is no class did not make its image, and no other, NaN$")


def test_a_file_in_which_a_wrong_target_spoils_other_images(refused, monkeypatch):
    def spoilt(session, names, images, target):
        found = run(session, names, images, target)
        return {n: t + torch.nan if ((target < 0).any() and n != "target") else t for n, t in found.items()}

    run = onnx._run
    monkeypatch.setattr(onnx, "_run", spoilt)
    refused("a target that is no class did not make its image, and no other, NaN$")


@pytest.mark.parametrize("name", ["contributions", "weights"])
def test_a_map_whose_sum_is_right_and_whose_places_are_not(refused, disturb, name):
    disturb(name, lambda t: t.flip(-1))
    refused(f"on random images: its {name} is off by ")


def test_real_images_count_as_well(refused, disturb):
    disturb("contributions", lambda t: 1.01 * t, only=6)
    refused(r"differs from PyTorch on real images: its (contributions|relative residual) is off by 0\.01,")


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.json"])
def test_a_folder_in_the_way_leaves_no_half_of_the_two(write, tmp_path, name):
    for file in tmp_path.iterdir():
        file.unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(OSError, match=f"^cannot write {tmp_path / name}: it is a folder, give a file name in it$"):
        write()
    assert [file.name for file in tmp_path.iterdir()] == [name]
