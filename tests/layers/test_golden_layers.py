"""B-cos layers and layer norm against numbers of the reference's code (B-cos/B-cos-v2, commit 9a849c9)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bcos_vit.layers import BcosConv2d, BcosLinear, LayerNorm, frozen
from laws import assert_close, jacobian

GOLDEN = Path(__file__).parents[1] / "golden" / "bcos.npz"
RTOL = {torch.float64: 1e-9, torch.float32: 1e-4}
CASES = [(b, max_out) for b in (1, 1.5, 2, 2.5) for max_out in (1, 2)]


@pytest.fixture(scope="module")
def golden() -> Mapping[str, np.ndarray]:
    return np.load(GOLDEN)  # a missing file is an error


@pytest.fixture(params=RTOL, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def read(golden: Mapping[str, np.ndarray], prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
    arrays = {key.removeprefix(prefix): golden[key] for key in golden if key.startswith(prefix)}
    return {name: torch.from_numpy(a).to(dtype) for name, a in arrays.items() if a.dtype.kind == "f"}


def give_weight(layer: nn.Module, weight: Tensor) -> None:
    layer.to(weight.dtype).load_state_dict({"weight": weight})


def assert_output(layer: nn.Module, z: dict[str, Tensor]) -> None:
    rtol = RTOL[z["input"].dtype]
    assert_close(layer(z["input"]), z["output"], rtol, "output")
    with frozen():
        assert_close(layer(z["input"]), z["output"], rtol, "frozen output")


@pytest.mark.parametrize(("b", "max_out"), CASES)
def test_linear_is_the_references(golden: Mapping[str, np.ndarray], b: float, max_out: int, dtype: torch.dtype) -> None:
    z = read(golden, f"linear/B{b}_maxout{max_out}/", dtype)
    layer = BcosLinear(6, 4, b=b, max_out=max_out)
    give_weight(layer, z["weight"])
    assert_output(layer, z)
    with frozen():
        for x, rows in zip(z["input"], z["dynamic_weight"], strict=True):
            assert_close(jacobian(layer, x)[1], rows, RTOL[dtype], "dynamic weight")


@pytest.mark.parametrize(("b", "max_out"), CASES)
def test_conv_is_the_references(golden: Mapping[str, np.ndarray], b: float, max_out: int, dtype: torch.dtype) -> None:
    z = read(golden, f"conv/B{b}_maxout{max_out}_k3_s2_p1/", dtype)
    layer = BcosConv2d(3, 4, 3, stride=2, padding=1, b=b, max_out=max_out)
    give_weight(layer, z["weight"])
    assert_output(layer, z)
    x = z["input"].requires_grad_()
    with frozen():
        (row,) = torch.autograd.grad(layer(x)[:, 0].sum(), x)
    assert_close(row, z["dynamic_weight_of_summed_output_channel0"], RTOL[dtype], "dynamic weight")


def test_layer_norm_is_the_references(golden: Mapping[str, np.ndarray], dtype: torch.dtype) -> None:
    z = read(golden, "layernorm_nobias/", dtype)
    norm = LayerNorm(6)
    give_weight(norm, z["weight"])
    assert_output(norm, z)
    x = z["input"].requires_grad_()
    with frozen():
        (row,) = torch.autograd.grad((norm(x) * torch.arange(1, 7)).sum(), x)
    assert_close(row, z["grad_of_sum_in_explanation_mode"], RTOL[dtype], "row")
