"""Weights that are not fine-tuned in the outputs of the command line: pictures, files, lines and exported files."""

import json

import pytest
import torch
from onnxruntime import InferenceSession
from safetensors import safe_open

from bcos_vit import Explanation, create_model, save_model
from commands import paired
from toys import VITC, toy

SAID = 'not fine-tuned: the weights were trained with downsample "strided", not "blurred"'


@pytest.fixture
def marked(tmp_path):
    """A strided model, switched and not trained since."""
    save_model(toy(VITC), tmp_path / "strided.safetensors")
    save_model(create_model(tmp_path / "strided.safetensors", downsample="blurred"), tmp_path / "marked.safetensors")
    return tmp_path / "marked.safetensors"


def test_explain_says_so_in_line_picture_and_file(command, marked, photo, tmp_path, monkeypatch):
    titles, plot = [], Explanation.plot

    def watched(self, *, title, **options):
        titles.append(title)
        return plot(self, title=title, **options)

    monkeypatch.setattr(Explanation, "plot", watched)
    said = command("explain", photo, "--model", marked, "--out", tmp_path / "out", "--targets", "1")
    assert said.status == 0
    assert f", {SAID}: " in said.out
    assert titles[0].endswith(f", {SAID}")
    (name,) = paired(tmp_path / "out")
    with safe_open(tmp_path / "out" / f"{name}.safetensors", framework="pt") as file:
        assert file.metadata()["weights"] == SAID


def test_convert_keeps_the_mark_where_it_can_and_says_where_it_cannot(command, marked, tmp_path):
    said = command("convert", marked, tmp_path / "ours.safetensors")
    assert said.status == 0
    assert create_model(tmp_path / "ours.safetensors").about["not_fine_tuned"] == {"downsample": "strided"}
    other = create_model(tmp_path / "strided.safetensors", b=1.5)  # which the published keys do not show
    save_model(other, tmp_path / "other.safetensors")
    said = command("convert", tmp_path / "other.safetensors", tmp_path / "theirs.pth")
    assert said.status == 0
    assert "note: a state dict does not say b 1.5: build its model with it\n" in said.err
    assert "that it is not fine-tuned: the weights were trained with b 2, not 1.5\n" in said.err


@pytest.mark.slow
def test_an_exported_file_and_its_certificate_say_so(command, marked, tmp_path):
    images = torch.rand(2, 3, 48, 48)
    assert images.shape[-1] == create_model(marked).spec.image_size
    said = command("export", "--model", marked, "--out", tmp_path / "marked.onnx")
    assert said.status == 0, said.err
    assert f"\n{SAID}\n" in said.out
    assert json.loads((tmp_path / "marked.onnx.json").read_text())["not_fine_tuned"] == SAID
    metadata = InferenceSession(tmp_path / "marked.onnx").get_modelmeta().custom_metadata_map
    assert metadata["not_fine_tuned"] == SAID
    said = command("export", "--model", tmp_path / "strided.safetensors", "--out", tmp_path / "strided.onnx")
    assert "fine-tuned" not in said.out
    assert json.loads((tmp_path / "strided.onnx.json").read_text())["not_fine_tuned"] is None
