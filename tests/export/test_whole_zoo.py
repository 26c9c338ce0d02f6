"""A file of every B-cos architecture says what PyTorch says, on images that nobody verified it with, in any batch."""

from typing import get_args

import pytest
import torch

from bcos_vit import create_model, list_models
from bcos_vit.export import to_onnx
from bcos_vit.layers import Blur
from bcos_vit.layers.blur import Border, Kernel
from exported import assert_exact, errors, outputs, session, unseen
from kinds import KINDS, kind
from toys import perturb_norms

NAMES = [name for name in list_models("bcos_*") if not name.endswith(("_digits", "_shapes"))]
HUNDRED = [17] * 5 + [3] * 4 + [1] * 3
TWENTY_FOUR = [17, 3, 3, 1]
"""Images in batches of many, some and one."""
SAME_GRAPH = [name for name in NAMES if ("_rope_" in name or "_smooth_" in name) and ("_s_" in name or "_l_" in name)]
"""Names whose operations are those of Ti and B, and whose widths are tried without rotary positions and blurs."""
OTHER_HALF = [
    *(f"bcos-{position}-tokens" for position in ("sincos", "rope", "prior", "none")),
    *(f"bcos-stem-{position}-pool" for position in ("sincos", "rope", "prior", "none")),
]
"""Kinds whose positions, heads and stems are all met in others."""


def largest(model, path, images, sizes, targets=None):
    """Of every output of a file the largest error over batches of these sizes."""
    file, found = session(path), {}
    given = [None] * len(sizes) if targets is None else targets.split(sizes)
    for batch, target in zip(images.split(sizes), given, strict=True):
        said = outputs(file, batch, target)
        expected = said["logits"].argmax(1) if target is None else target
        assert torch.equal(said["target"], expected)
        for name, error in errors(model, said, batch).items():
            found[name] = max(error, found.get(name, 0.0))
    return found


def test_there_are_twenty():
    assert len(NAMES) == 20
    assert sum("_rope_" in name for name in NAMES) == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "depth"),
    [(name, 2) for name in NAMES if name not in SAME_GRAPH] + [(name, None) for name in NAMES if "_ti_patch" in name],
)
def test_files_are_exact_on_unseen_images(name, depth, tmp_path):
    """A hundred of them for the smallest models, fewer for the others."""
    sizes = HUNDRED if "_ti_" in name else TWENTY_FOUR
    model = perturb_norms(create_model(name, **({} if depth is None else {"depth": depth}))).eval()
    to_onnx(model, tmp_path / "model.onnx")
    found = largest(model, tmp_path / "model.onnx", unseen(model, sum(sizes)), sizes)
    assert_exact(found)
    assert (model.spec.position == "rope") == (found["position"] == 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in KINDS if name.startswith("bcos") and name not in OTHER_HALF])
def test_every_kind_of_model_and_any_class(name, tmp_path):
    model = kind(name)
    to_onnx(model, tmp_path / "model.onnx", targets="input", weights=True)
    images = unseen(model, 21)
    targets = torch.arange(21) % model.num_classes
    found = largest(model, tmp_path / "model.onnx", images, [17, 3, 1], targets)
    assert_exact(found)
    assert {"weights", "contributions", "ledger"} <= found.keys()


@pytest.mark.slow
@pytest.mark.parametrize("border", get_args(Border))
@pytest.mark.parametrize("kernel", get_args(Kernel))
def test_every_blur(kernel, border, tmp_path):
    model = kind("bcos-stem-blurred", depth=1)
    for stage in model.tokens.stem:
        stage.blur = Blur(kernel, border)
    to_onnx(model, tmp_path / "model.onnx")
    assert_exact(largest(model, tmp_path / "model.onnx", unseen(model, 4), [3, 1]))
