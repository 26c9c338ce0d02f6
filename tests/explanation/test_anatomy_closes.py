"""Everything an anatomy takes apart adds up again, for every kind of model and depth; what does not is told."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bcos_vit import Anatomy, Contrast, LedgerError, TopK, Unit, anatomy, explain
from bcos_vit.layers import BcosLinear, Logits, PoolHead, SixChannels
from bcos_vit.models.vit import ViT
from kinds import KINDS, kind, wide_images
from toys import NAME, images_for, toy

BCOS = [name for name in KINDS if name.startswith("bcos")]
NEAR_ZERO = ["bcos-prior-pool", "bcos-stem-rope-pool", "bcos-stem-none-pool", "bcos-digits"]
"""Toys that give some of the test's images a logit near zero, where there is no bias."""
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
both_precisions = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def assert_adds_up(whole: Tensor, parts: Tensor, what: str) -> None:
    """``whole`` (...) is the sum of ``parts`` (..., n), relative to the largest of what is added and the whole."""
    scale = torch.maximum(parts.abs().sum(-1), whole.abs())
    off = (whole - parts.sum(-1)).abs()
    assert bool((off <= TOLERANCE[whole.dtype] * scale).all()), f"{what}: off by {(off / scale).max():.3g}"


@both_precisions
@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("name", BCOS)
def test_it_closes(name: str, depth: int, dtype: torch.dtype) -> None:
    model = kind(name, dtype=dtype, depth=depth)
    parts = anatomy(model, wide_images(model))
    assert parts.check() is parts
    logit = parts.explanation.logit
    assert torch.equal(logit, parts.logits.amax(1))
    for stage, tokens in parts.tokens.items():
        assert_adds_up(logit, torch.cat((tokens, parts.constants[stage][:, None]), 1), stage)
    for number in range(depth):
        block = f"blocks.{number}"
        three = [parts.branches[block, branch] for branch in ("skip", "attention", "mlp")]
        assert_adds_up(parts.tokens[block].sum(1), torch.stack(three, 1), f"branches of {block}")
        assert_adds_up(parts.branches[block, "attention"], parts.heads[:, number], f"heads of {block}")
        before = parts.tokens["tokens" if number == 0 else f"blocks.{number - 1}"].sum(1)
        assert not torch.allclose(parts.branches[block, "skip"], before, rtol=0.01)  # which attention and MLP read, too
    assert_adds_up(parts.logits, torch.cat((parts.classes.mT, parts.class_constants[..., None]), -1), "classes")
    for what, residual in parts.relative_residuals().items():
        assert float(residual.max()) <= TOLERANCE[dtype], what
        assert residual.shape == (2,)


def test_residuals_are_named_by_what_does_not_add_up(model: ViT, images: Tensor) -> None:
    parts = anatomy(model, images)
    blocks = ("blocks.0", "blocks.1")
    sums = {f"{block} {what}" for block in blocks for what in ("branches", "heads")}
    assert parts.relative_residuals().keys() == {"tokens", *blocks, *sums, "classes"}
    worst = max(float(residual.max()) for residual in parts.relative_residuals().values())
    assert repr(parts) == f"<Anatomy of 3 images in 3 stages; largest relative residual {worst:.1e}>"


# --- what does not add up is told ---

Doctor = Callable[[Anatomy, float], dict[str, Any]]


def one_off(t: Tensor, by: float) -> Tensor:
    """The last number of the second image is off by a share of itself."""
    t = t.clone()
    t[(1,) + (-1,) * (t.dim() - 1)] *= 1 + by
    return t


DOCTORS: dict[str, tuple[str, Doctor]] = {
    "tokens": ("blocks.0", lambda a, by: {"tokens": a.tokens | {"blocks.0": one_off(a.tokens["blocks.0"], by)}}),
    "constants": (
        "blocks.1",
        lambda a, by: {"constants": a.constants | {"blocks.1": one_off(a.constants["blocks.1"], by)}},
    ),
    "branches": (
        "blocks.1 branches",
        lambda a, by: {"branches": a.branches | {("blocks.1", "mlp"): one_off(a.branches["blocks.1", "mlp"], by)}},
    ),
    "heads": ("blocks.1 heads", lambda a, by: {"heads": one_off(a.heads, by)}),
    "classes": ("classes", lambda a, by: {"classes": one_off(a.classes, by)}),
    "class constants": ("classes", lambda a, by: {"class_constants": one_off(a.class_constants, by)}),
    "logits": ("classes", lambda a, by: {"logits": one_off(a.logits, by)}),
}


@pytest.mark.parametrize("part", DOCTORS)
def test_a_doctored_anatomy_does_not_pass(model: ViT, images: Tensor, part: str) -> None:
    parts = anatomy(model, images)
    message, doctor = DOCTORS[part]
    with pytest.raises(LedgerError, match=rf"^{message} do not add up within 1e-05: the worst is off by"):
        dataclasses.replace(parts, **doctor(parts, 0.5)).check()
    dataclasses.replace(parts, **doctor(parts, 0.5)).check(1.0)
    with pytest.raises(LedgerError, match=r"within 1e-12"):
        parts.check(1e-12)  # float32


@pytest.mark.parametrize("part", ["branches", "heads"])
def test_a_part_that_is_off_by_a_hundredth_does_not_pass(model: ViT, images: Tensor, part: str) -> None:
    parts = anatomy(model, images)
    with pytest.raises(LedgerError):
        dataclasses.replace(parts, **DOCTORS[part][1](parts, 0.01)).check()


def test_heads_that_cancel_are_no_false_alarm(model: ViT, images: Tensor) -> None:
    """What is left of large sums over tokens is rounding, and is held against what was added up."""
    parts = anatomy(model, images)
    heads, branches = parts.heads.clone(), dict(parts.branches)
    heads[:, 1] = 1e-9 * parts.tokens["blocks.1"].abs().sum(1, keepdim=True)
    branches["blocks.1", "attention"] = torch.zeros_like(branches["blocks.1", "attention"])
    doctored = dataclasses.replace(parts, heads=heads, branches=branches)
    assert float(doctored.relative_residuals()["blocks.1 heads"].max()) < 1e-8


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NEAR_ZERO)
def test_logits_of_two_classes_near_zero_are_no_false_alarm(name: str, dtype: torch.dtype) -> None:
    model = kind(name, dtype=dtype, num_classes=2)  # no bias
    # In bfloat16 one of a few thousand images of such toys is off by more than the usual 2e-2, by rounding alone.
    parts = anatomy(model, images_for(model, 60)).check(4e-2 if dtype == torch.bfloat16 else None)
    e = parts.explanation
    assert float((e.logit.abs() / e.scale).min()) < 0.1


def test_a_doctored_explanation_does_not_pass(model: ViT, images: Tensor) -> None:
    parts = anatomy(model, images)
    spoilt = dataclasses.replace(parts.explanation, contributions=parts.explanation.contributions + 1)
    with pytest.raises(LedgerError, match="3 of 3 ledgers"):
        dataclasses.replace(parts, explanation=spoilt).check()


@pytest.mark.parametrize("spoilt", [math.nan, math.inf])
@pytest.mark.parametrize("part", [part for part in DOCTORS if part != "logits"])
def test_what_is_no_number_does_not_pass(model: ViT, images: Tensor, part: str, spoilt: float) -> None:
    parts = anatomy(model, images)
    _, doctor = DOCTORS[part]
    with pytest.raises(LedgerError):
        dataclasses.replace(parts, **doctor(parts, spoilt)).check()


@pytest.mark.parametrize("position", ["sincos", "rope"])
def test_half_precision_and_autocast(position: str) -> None:
    half = toy(NAME, dtype=torch.bfloat16, position=position)
    assert anatomy(half, images_for(half)).check().heads.dtype == torch.float32
    model = toy(NAME, position=position)
    with torch.autocast("cpu", torch.bfloat16):
        parts = anatomy(model, images_for(model)).check()
    exact = anatomy(model, images_for(model), parts.explanation.target)
    torch.testing.assert_close(parts.logits.float(), exact.logits, rtol=0.05, atol=0.05)


def test_a_nan_that_was_let_in_does_not_pass_the_check(model: ViT, images: Tensor) -> None:
    images[1] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        anatomy(model, images)
    with pytest.raises(LedgerError):
        anatomy(model, images, check_values=False).check()


# --- what has no anatomy ---


class Stageless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = SixChannels()
        self.head = PoolHead(nn.Identity(), BcosLinear(6, 3))
        self.logits = Logits(1, -1)

    def forward_encoded(self, encoded: Tensor) -> Tensor:
        return self.logits(self.head(encoded.flatten(2).mT))


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (TopK(2), ValueError, "one target an image, found 2: ask one by one"),
        ([[1], [2], [0]], ValueError, "one target an image, found 1"),
        (Unit("blocks.0", 3, 1), TypeError, "unit .channel 3 of token 1 at blocks.0. is no combination of logits"),
        (5, ValueError, "target 5 is out of range"),
        ([0, 1], ValueError, r"for 3 images, found shape \(2,\)"),
        (Contrast(2, 2), ValueError, "two different classes, found 2 twice"),
    ],
    ids=repr,
)
def test_targets_that_do_not_fit(model: ViT, images: Tensor, target: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        anatomy(model, images, target)


def test_models_without_an_anatomy(images: Tensor) -> None:
    with pytest.raises(TypeError, match=r"bcos_vit\.attribution"):
        anatomy(toy("standard_simple_vit_ti_patch16_224"), images)
    model = Stageless()
    explain(model, images).check()
    with pytest.raises(TypeError, match=r"Stageless cannot be taken apart.*names no stage or branch tokens"):
        anatomy(model, images)
    with pytest.raises(ValueError, match=r"no stage is named 'tokens'.*pooled"):
        explain(model, images, at="tokens")
    with pytest.raises(ValueError, match="'pooled' has no tokens but one vector"):
        explain(model, images, at="pooled")
    assert explain(model, images, Unit("pooled", 2)).check().of == "channel 2 at pooled"


def test_nothing_is_left_behind(model: ViT, images: Tensor) -> None:
    images.requires_grad_()
    with torch.inference_mode():
        inside = anatomy(model, images)
    outside = anatomy(nn.DataParallel(model), images)
    assert images.grad is None
    assert all(p.grad is None for p in model.parameters())
    for stage in outside.stages:
        assert not inside.tokens[stage].is_inference()
        assert torch.equal(inside.tokens[stage], outside.tokens[stage])
    assert torch.equal(inside.classes, outside.classes)
