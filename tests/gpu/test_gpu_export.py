"""Programs and files made of a model on the device are exact, and leave it there."""

from __future__ import annotations

import pytest
import torch

from bcos_vit import create_model, explain
from bcos_vit.export import to_onnx, to_program
from bcos_vit.export.graph import output_names
from devices import DEVICE, exact, images_like, off, on_device


def test_a_program_runs_on_the_device() -> None:
    model = on_device(exact("stem"))
    program = to_program(model, targets="input").module()
    assert next(model.parameters()).device.type == DEVICE.type
    images, target = images_like(model, 5), torch.arange(5, device=DEVICE)
    found = dict(zip(output_names(model, False), program(images, target), strict=True))
    expected = explain(model, images, target)
    assert off(found["contributions"], expected.contributions) <= 1e-2  # a program follows the user's choice of TF32
    assert off(found["logits"][torch.arange(5), torch.arange(5)], expected.logit) <= 1e-2


def test_a_file_of_a_model_on_the_device(tmp_path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    model = create_model("bcos_vit_digits", pretrained=True).to(DEVICE)
    certificate = to_onnx(model, tmp_path / "digits.onnx", images=images_like(model))
    assert next(model.parameters()).device.type == DEVICE.type
    assert max(certificate.random.errors.values()) <= 3e-5
