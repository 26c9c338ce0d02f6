"""Two complete tiny B-cos ViTs against vectors that the public reference code computed in float64."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import bcos_vit
from bcos_vit.explanation.colour import render
from bcos_vit.models.spec import ViTSpec
from bcos_vit.models.vit import ViT
from bcos_vit.models.weights import from_published
from toys import deviation

FILE = Path(__file__).parents[1] / "golden" / "bcos.npz"
Golden = dict[str, np.ndarray]
PRECISIONS = [(torch.float64, 1e-9), (torch.float32, 1e-4)]

pytestmark = pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS, ids=["float64", "float32"])


@pytest.fixture(autouse=True)
def float64_by_default() -> Iterator[None]:
    """The files were made so, and the position code is computed in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(params=["simple_vit", "vit_c"])
def values(request: pytest.FixtureRequest) -> Golden:
    with np.load(FILE) as file:  # a missing file is an error, not a reason to skip
        prefix = request.param + "/"
        return {name.removeprefix(prefix): file[name] for name in file if name.startswith(prefix)}


def build(values: Golden, dtype: torch.dtype) -> tuple[ViT, torch.Tensor]:
    config = json.loads(str(values["config"]))
    stem = tuple(config.get("conv_stem", ()))
    stride = 2 ** len(stem)  # both stages grow; the reference counts its patches on their output
    spec = ViTSpec(
        family="bcos",
        image_size=config["image_size"] * stride,
        patch_size=config["patch_size"] * stride,
        stem=stem,
        width=config["dim"],
        depth=config["depth"],
        heads=config["heads"],
        mlp_width=config["mlp_dim"],
        num_classes=config["num_classes"],
        b=config["B"],
        max_out=config["max_out"],
    )
    assert spec.bias == pytest.approx(config["logit_bias"], rel=1e-15)
    model = ViT(spec)
    state = {key.removeprefix("param/"): torch.from_numpy(v) for key, v in values.items() if key.startswith("param/")}
    model.load_state_dict(from_published(state), strict=True)
    return model.to(dtype).eval(), torch.from_numpy(values["rgb"]).to(dtype)


def assert_golden(found: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    assert deviation(found.double(), torch.from_numpy(expected)) <= tolerance


def test_logits(values, dtype, tolerance) -> None:
    model, rgb = build(values, dtype)
    with torch.no_grad():
        assert_golden(model.encode(rgb), values["input"], tolerance)
        assert_golden(model(rgb), values["logits"], tolerance)
        # The bias alone must not carry the comparison.
        assert_golden(model(rgb) - model.spec.bias, values["logits"] + np.log(4), tolerance)
    assert int(model(rgb).argmax()) == int(values["predicted_class"])


def test_rows_and_contributions(values, dtype, tolerance) -> None:
    model, rgb = build(values, dtype)
    linear_map = bcos_vit.collapse(model, rgb)
    e = bcos_vit.explain(model, rgb, [[0, 1, 2, 3, 4]])
    for c in range(5):  # each class by its own maximum
        assert_golden(linear_map.matrix()[0, c], values["dynamic_weights_per_class"][c], tolerance)
        assert_golden(e.weights[0, c], values["dynamic_weights_per_class"][c], tolerance)
        assert_golden(e.contributions[0, c], values["contribution_maps_per_class"][c], tolerance)


@pytest.mark.parametrize("smooth", [3, 15])
def test_colours(values, dtype, tolerance, smooth: int) -> None:
    model, rgb = build(values, dtype)
    expected = values[f"rgba_explanation_smooth{smooth}_pct99.5"]
    if dtype == torch.float64:
        assert_golden(bcos_vit.explain(model, rgb).colour(smooth)[0].movedim(0, -1), expected, tolerance)
    # Colours are ratios with a sign test, which amplify float32's rounding: render the golden row itself.
    c = int(values["predicted_class"])
    row, contributions = (
        torch.from_numpy(values[name][c]).to(dtype)
        for name in ("dynamic_weights_per_class", "contribution_maps_per_class")
    )
    assert_golden(render(row, contributions, smooth, 99.5).movedim(0, -1), expected, tolerance)
