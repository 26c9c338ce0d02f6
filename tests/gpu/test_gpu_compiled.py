"""Compiled code computes what eager code does: predictions, learning steps, and explanations of compiled models."""

from __future__ import annotations

import shutil

import pytest
import torch

from bcos_vit import compile_explainer, explain
from bcos_vit.layers.precision import ieee_float32
from devices import IS_CUDA, exact, images_like, off, on_device

pytestmark = pytest.mark.skipif(
    not IS_CUDA and shutil.which("c++") is None, reason="there is no C++ compiler, which compiling for the CPU needs"
)

KINDS = pytest.mark.parametrize("kind", ["rope", "stem"])


@KINDS
def test_a_learning_step_of_a_compiled_model(kind: str) -> None:
    eager, compiled = on_device(exact(kind)).train(), on_device(exact(kind)).train()
    compiled.compile(fullgraph=True)
    with ieee_float32():  # TF32 each would take its own way
        for model in (eager, compiled):
            model(images_like(model)).square().sum().backward()
    for (name, mine), theirs in zip(compiled.named_parameters(), eager.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert off(mine.grad, theirs.grad) <= 1e-4, name


@KINDS
def test_in_bfloat16(kind: str) -> None:
    eager, compiled = on_device(exact(kind)), on_device(exact(kind))
    compiled.compile(fullgraph=True)
    with torch.no_grad(), torch.autocast(next(eager.parameters()).device.type, torch.bfloat16):
        assert off(compiled(images_like(eager)), eager(images_like(eager))) <= 6e-2


@KINDS
def test_explanations_of_a_compiled_model(kind: str) -> None:
    model = on_device(exact(kind))
    expected = explain(model, images_like(model), 3)
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        predicted = compiled(images_like(model))
    found = explain(compiled, images_like(model), 3).check()
    assert off(found.contributions, expected.contributions) <= 1e-5
    assert off(predicted[:, 3], expected.logit) <= 1e-2


@pytest.mark.parametrize("targets", ["predicted", "input"])
@KINDS
def test_a_compiled_explainer(kind: str, targets: str) -> None:
    model = on_device(exact(kind))
    explainer = compile_explainer(model, targets=targets)
    for batch in (4, 1, 5):
        images = images_like(model, batch)
        asked = () if targets == "predicted" else (torch.arange(batch, device=images.device),)
        found, expected = explainer(images, *asked).check(), explain(model, images, *asked)
        assert torch.equal(found.target, expected.target)
        assert off(found.logit, expected.logit) <= 1e-5
        assert off(found.contributions, expected.contributions) <= 3e-5
