"""The laws of whole models: rows and constants make up the logits, and the rows are those of a linear map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bcos_vit import TopK, collapse, explain, frozen, list_models
from bcos_vit.layers import BcosLinear, Logits, SixChannels
from bcos_vit.models.vit import ViT
from laws import assert_close
from toys import deviation, images_for, toy

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
BASES = ("bcos_simple_vit_s_patch16_224", "bcos_vitc_b_patch1_14")

Case = tuple[str, dict[str, Any]]
ZOO: list[Case] = [(name, {}) for name in list_models("bcos_*")]
VARIANTS: list[Case] = [
    (name, fields)
    for name in BASES
    for fields in (
        {"value": "bcos"},
        {"head": "tokens"},
        {"position": "rope"},
        {"position": "prior"},
        {"position": "none"},
        {"b": 1},
        {"b": 1.5},
        {"b": 2.5},
        {"max_out": 2},
        {"stem_max_out": 2},
        {"logit_scale": 3},
        {"logit_bias": 0.0},
        {"value": "bcos", "head": "tokens", "position": "prior", "b": 1.5, "max_out": 2, "stem_max_out": 2},
    )
]
VARIANTS.append((BASES[1], {"downsample": "blurred"}))
CASES = [pytest.param(*case, id=f"{case[0]}-{case[1]}") for case in [*ZOO, *VARIANTS]]
KINDS = [pytest.param(*case, id=f"{case[0]}-{case[1]}") for case in [*[(name, {}) for name in BASES], *VARIANTS]]
both_precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


@both_precisions
@pytest.mark.parametrize(("name", "fields"), CASES)
def test_the_ledger_closes(name: str, fields: dict[str, Any], dtype: torch.dtype) -> None:
    model = toy(name, dtype=dtype, **fields)
    images = images_for(model)
    every = torch.arange(5).expand(3, 5)
    e = explain(model, images, every)
    assert e.check() is e
    assert float(e.relative_residual.max()) <= TOLERANCE[dtype]
    assert torch.equal(e.logit, collapse(model, images).logits)
    assert deviation(e.logit, model(images)) <= TOLERANCE[dtype]
    torch.testing.assert_close(e.image + sum(e.constants.values()), e.logit, rtol=0, atol=10 * TOLERANCE[dtype])

    position = model.spec.position == "sincos"
    assert set(e.constants) == ({"position", "bias"} if position else {"bias"})
    torch.testing.assert_close(e.constants["bias"], torch.full((3, 5), model.spec.bias, dtype=dtype))
    if position:
        assert ((e.image_share > 0) & (e.image_share < 1)).all()
        assert e.constants["position"].abs().min() > 0
    else:
        assert torch.equal(e.image_share, torch.ones(3, 5, dtype=dtype))


@both_precisions
@pytest.mark.parametrize(("name", "fields"), KINDS)
def test_the_map_is_the_model(name: str, fields: dict[str, Any], dtype: torch.dtype) -> None:
    """``matrix @ encoded + constants = logits``, whether the rows are read off together or one at a time."""
    model = toy(name, dtype=dtype, **fields)
    images = images_for(model)
    linear_map = collapse(model, images)
    matrix = linear_map.matrix()
    assert matrix.shape == (3, 5, 6, *images.shape[2:])
    assert torch.equal(linear_map.encoded, model.encode(images))
    e = explain(model, images, torch.arange(5).expand(3, 5))
    assert_close(e.weights, matrix)
    for c in range(5):
        assert_close(linear_map.rows(c), matrix[:, c])
    assert_close(linear_map.rows(), matrix[torch.arange(3), linear_map.logits.argmax(1)])
    assert_close(linear_map.rows(TopK(2))[:, 0], linear_map.rows())
    product = torch.einsum("bkchw,bchw->bk", matrix.double(), linear_map.encoded.double())
    total = product + sum(constant.double() for constant in e.constants.values())
    assert deviation(total, linear_map.logits.double()) <= TOLERANCE[dtype]


@both_precisions
@pytest.mark.parametrize(("name", "fields"), KINDS)
def test_freezing_changes_no_number(name: str, fields: dict[str, Any], dtype: torch.dtype) -> None:
    model = toy(name, dtype=dtype, **fields)
    images = images_for(model)
    ordinary = model(images)
    with frozen():
        held = model(images)
    # Less the bias, which would outweigh what the network computes.
    assert deviation(held - model.spec.bias, ordinary - model.spec.bias) <= TOLERANCE[dtype]
    assert not torch.equal(*(torch.autograd.grad(y.sum(), model.head.norm.weight)[0] for y in (held, ordinary)))


def slope(logits: Tensor, encoded: Tensor) -> Tensor:
    """A random combination of all rows, a function of what is not frozen."""
    pick = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(logits.dtype)
    return torch.autograd.grad((logits * pick).sum(), encoded, create_graph=True)[0]


@pytest.mark.parametrize(("name", "fields"), KINDS)
def test_the_second_derivative_is_zero_and_reaches_the_parameters(name: str, fields: dict[str, Any]) -> None:
    """A frozen network is linear; that its tape was not cut is seen from the parameters."""
    model = toy(name, dtype=torch.float64, **fields)
    encoded = model.encode(images_for(model)).requires_grad_()
    with sdpa_kernel(SDPBackend.MATH), frozen():  # the fused attention has no second derivative
        row = slope(model.forward_encoded(encoded), encoded)
        second = torch.autograd.grad(row.square().sum(), encoded, allow_unused=True, retain_graph=True)[0]
        assert second is None or float(second.abs().max()) == 0
        names, parameters = zip(*model.named_parameters(), strict=True)
        reached = torch.autograd.grad(row.square().sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(names, reached, strict=True):
        if "query_key" in parameter or "prior" in parameter:
            assert gradient is None, parameter  # they make the attention matrix, which is a weight
        else:
            assert gradient is not None, parameter
            assert float(gradient.abs().max()) > 0, parameter


def test_without_freezing_the_second_derivative_is_not_zero() -> None:
    """So the law above can fail. B = 1, since the learning rule of other B refuses to be differentiated twice."""
    model = toy("bcos_simple_vit_s_rope_patch16_224", dtype=torch.float64, b=1)
    encoded = model.encode(images_for(model)).requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        second = torch.autograd.grad(slope(model.forward_encoded(encoded), encoded).square().sum(), encoded)[0]
    assert float(second.abs().max()) > 0


def parts(model: ViT, images: Tensor) -> list[Tensor]:
    e = explain(model, images, torch.arange(5).expand(len(images), 5))
    return [e.logit, e.weights, e.contributions, *e.constants.values()]


@both_precisions
@pytest.mark.parametrize(("name", "fields"), KINDS)
def test_a_batch_equals_its_single_images(name: str, fields: dict[str, Any], dtype: torch.dtype) -> None:
    model = toy(name, dtype=dtype, **fields)
    images = images_for(model, 4)
    # Six stem stages amplify rounding: float32 itself is up to 1e-5 off there in some of the variants.
    tolerance = TOLERANCE[dtype] * (3 if fields and model.spec.stem and dtype == torch.float32 else 1)
    together = parts(model, images)
    for i in range(4):
        for whole, single in zip(together, parts(model, images[i : i + 1]), strict=True):
            # By the maximum of the batch: a class whose cosine is nearly zero has few digits left in float32.
            assert float((whole[i] - single[0]).abs().max()) <= tolerance * float(whole.abs().max())


@pytest.mark.parametrize(("name", "fields"), KINDS)
def test_the_rest_of_the_batch_does_not_matter(name: str, fields: dict[str, Any]) -> None:
    model = toy(name, **fields)
    images, others = images_for(model, 4), images_for(model, 4, seed=9)
    others[2] = images[2]
    for mine, again in zip(parts(model, images), parts(model, others), strict=True):
        assert torch.equal(mine[2], again[2])
        assert mine.dim() == 2 or not torch.equal(mine[1], again[1])


def test_the_map_holds_at_its_own_image_only() -> None:
    model = toy("bcos_vit_digits", dtype=torch.float64)
    images = images_for(model, 2)
    linear_map = collapse(model, images)
    swapped = torch.einsum("bkchw,bchw->bk", linear_map.matrix(), linear_map.encoded.flip(0)) + model.spec.bias
    assert deviation(swapped, linear_map.logits.flip(0)) > 1e-2


def test_the_map_is_not_the_gradient() -> None:
    """What is frozen does change with the image, and the plain gradient follows it: other rows, and other sums."""
    model = toy("bcos_vit_digits", dtype=torch.float64)
    images = images_for(model)
    linear_map = collapse(model, images)
    encoded = linear_map.encoded.clone().requires_grad_()
    gradient = torch.autograd.grad(model.forward_encoded(encoded)[:, 0].sum(), encoded)[0]
    row = linear_map.rows(0)
    assert deviation(gradient, row) > 0.1
    expected = linear_map.logits[:, 0] - model.spec.bias
    torch.testing.assert_close((row * encoded).sum((1, 2, 3)), expected, rtol=1e-10, atol=0)
    assert deviation((gradient * encoded).sum((1, 2, 3)), expected) > 0.1  # the norms are of degree zero


class TwoLayers(nn.Module):
    """B-cos layers without norms: homogeneous of degree one."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = SixChannels()
        self.layers = nn.Sequential(BcosLinear(24, 16), BcosLinear(16, 3))
        self.logits = Logits(1, -1)

    def forward_encoded(self, encoded: Tensor) -> Tensor:
        return self.logits(self.layers(encoded.flatten(1)))


def test_sums_do_not_prove_a_map() -> None:
    """Without norms, input x gradient sums to the logit as exactly as the map does, and is another map."""
    torch.manual_seed(0)
    model = TwoLayers().double()
    linear_map = collapse(model, torch.rand(4, 3, 2, 2, dtype=torch.float64))
    encoded = linear_map.encoded.clone().requires_grad_()
    gradient = torch.autograd.grad(model.forward_encoded(encoded)[:, 1].sum(), encoded)[0]
    row = linear_map.rows(1)
    for candidate in (row, gradient):
        torch.testing.assert_close((candidate * encoded).sum((1, 2, 3)), linear_map.logits[:, 1] + 1)
    assert deviation(gradient * encoded, row * encoded) > 0.1
