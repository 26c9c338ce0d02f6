"""Explanations inside the network: by a stage's tokens instead of the pixels, and of a unit instead of a logit."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from bcos_vit import Contrast, Explanation, TopK, Unit, collapse, explain
from bcos_vit.models.vit import ViT
from by_hand import by_hand
from kinds import kind, wide_images
from laws import assert_close
from toys import images_for

KINDS = ("bcos-sincos-pool", "bcos-rope-tokens", "bcos-stem-prior-pool", "bcos-values-maxout", "bcos-stem-maxout")
every_kind = pytest.mark.parametrize("name", KINDS)
both_precisions = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def close(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    assert_close(found, expected.detach(), 1e-12 if found.dtype == torch.float64 else 3e-5, what)


def stages_of(model: ViT) -> list[str]:
    blocks = [f"blocks.{number}" for number in range(model.spec.depth)]
    return ["tokens", *blocks, *(["scores"] if model.spec.head == "tokens" else [])]


# --- by the tokens of a stage ---


@both_precisions
@every_kind
def test_tokens_contribute_at_every_stage(name: str, dtype: torch.dtype) -> None:
    model = kind(name, dtype=dtype)
    images = images_for(model)
    hand = by_hand(model, images)
    pixels = explain(model, images, 2)
    for stage in stages_of(model):
        e = explain(model, images, 2, at=stage).check()
        value = hand.stages[stage]
        row = hand.slope(hand.logits[:, 2], value)
        lies = (3, -1, *e.contributions.shape[1:])  # channels, rows, columns
        assert e.contributions.shape == (3, 3, 3)
        close(e.weights, row.flatten(1, -2).mT.reshape(lies), f"row at {stage}")
        close(e.contributions, (row * value).sum(-1).view(3, 3, 3), f"contributions at {stage}")
        assert set(e.constants) == (
            {"position", "bias"} if stage == "tokens" and "position" in pixels.constants else {"bias"}
        )
        for what in ("images", "target", "logit", "probability", "magnitude"):
            assert torch.equal(getattr(e, what), getattr(pixels, what)), what
        assert (e.at, e.of, pixels.at, e.cost) == (stage, "logit", "image", 2)
        assert f"(inherent, at {stage}) of 3 images" in repr(e)


@pytest.mark.parametrize("name", ["bcos-sincos-pool", "bcos-rope-tokens"])
def test_a_grid_that_is_not_square(name: str) -> None:
    model = kind(name, dtype=torch.float64)
    images = wide_images(model)
    for stage in stages_of(model):
        e = explain(model, images, 0, at=stage).check()
        assert e.contributions.shape == (2, 2, 4)
        assert e.weights is not None
        tokens = collapse(model, images, stages=True).tokens(stage)
        products = (e.weights.flatten(2).mT * tokens).sum(-1)
        close(e.contributions.flatten(1), products, stage)


@both_precisions
@pytest.mark.parametrize(
    "target", [TopK(2), [[0, 4], [1, 1], [3, 2]], [4, 0, 2], Contrast(1, 3), Contrast(2)], ids=repr
)
def test_every_target_at_a_stage(target: Any, dtype: torch.dtype) -> None:
    model = kind("bcos-sincos-pool", dtype=dtype)
    images = images_for(model)
    e = explain(model, images, target, at="blocks.0").check()
    assert e.of == explain(model, images, target).of
    classes = e.target if e.target.dim() == 2 else e.target[:, None]
    assert e.contributions.shape == (*e.target.shape, 3, 3)
    if not isinstance(target, Contrast):
        for t in range(classes.shape[1]):
            alone = explain(model, images, classes[:, t], at="blocks.0")
            mine = e.of_target(t) if e.target.dim() == 2 else e
            assert mine.at == "blocks.0"
            assert_close(mine.contributions, alone.contributions)
            assert_close(mine.weights, alone.weights)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("block.0", r"no stage is named 'block\.0', did you mean 'blocks\.0'"),
        ("blocks.2", r"no stage is named 'blocks\.2', did you mean 'blocks\."),
        ("image", r"no stage is named 'image'; valid are: blocks\.0, blocks\.1, pooled, tokens"),
        ("pooled", "'pooled' has no tokens but one vector an image"),
    ],
)
def test_stages_that_there_are_not(model: ViT, images: torch.Tensor, stage: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain(model, images, at=stage)


# --- of a unit ---


@both_precisions
@every_kind
def test_a_units_value_and_row(name: str, dtype: torch.dtype) -> None:
    model = kind(name, dtype=dtype)
    images = images_for(model)
    hand = by_hand(model, images)
    for stage, value in hand.stages.items():
        tokens = value.flatten(1, -2) if value.dim() > 2 else value[:, None]
        channel, token = tokens.shape[2] - 1, tokens.shape[1] - 1
        unit = Unit(stage, channel, token if value.dim() > 2 else None)
        e = explain(model, images, unit).check()
        output = tokens[:, token, channel]
        row = hand.slope(output, hand.encoded)
        close(e.logit, output, f"value of {unit}")
        close(e.weights, row, f"row of {unit}")
        close(e.contributions, (row * hand.encoded).sum(1), f"contributions to {unit}")
        if "position" in e.constants:
            share = (hand.slope(output, hand.position) * hand.position).sum((1, 2))
            close(e.constants["position"], share, f"position in {unit}")
        assert set(e.constants) == ({"position"} if hand.position is not None and stage != "tokens" else set())
        assert (e.of, e.at, e.probability, e.against) == (str(unit), "image", None, None)
        assert e.target.tolist() == [channel] * 3
        where = "" if unit.token is None else f" of token {token}"
        assert str(unit) == f"channel {channel}{where} at {stage}"


def test_a_unit_is_what_the_model_computes(model: ViT, images: torch.Tensor) -> None:
    _, blocks = model.forward_intermediates(images, output_fmt="NLC")
    for number, tokens in enumerate(blocks):
        for token, channel in ((0, 0), (4, 7), (8, 15)):
            e = explain(model, images, Unit(f"blocks.{number}", channel, token))
            assert_close(e.logit, tokens[:, token, channel], 1e-5)
    assert_close(explain(model, images, Unit("pooled", 3)).logit, blocks[-1].mean(1)[:, 3], 1e-5)


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        (Unit("blocks.0", 16, 2), r"channel 16 is out of range at blocks\.0: there are 0 to 15"),
        (Unit("blocks.0", -1, 2), r"channel -1 is out of range"),
        (Unit("tokens", 3, 9), "token 9 is out of range at tokens: there are 0 to 8"),
        (Unit("tokens", 3, -1), "token -1 is out of range"),
        (Unit("pooled", 16), "channel 16 is out of range at pooled"),
        (Unit("pooled", 3, 0), r"'pooled' has shape \(3, 16\): it has no tokens but one vector an image"),
        (Unit("blocks.1", 3), r"'blocks\.1' has shape \(3, 9, 16\): a unit there needs a token"),
        (Unit("tokens", 3), r"'tokens' has shape \(3, 3, 3, 16\): a unit there needs a token"),
        (Unit("blocks.9", 3, 0), r"no stage is named 'blocks\.9', did you mean"),
        (Unit("scores", 3, 0), r"no stage is named 'scores'"),
    ],
    ids=str,
)
def test_units_that_there_are_not(model: ViT, images: torch.Tensor, unit: Unit, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain(model, images, unit)


@pytest.mark.parametrize("wrong", [1.0, "a", None, True])
def test_a_unit_is_named_by_whole_numbers(wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"a unit's channel is a whole number, found {wrong!r}"):
        Unit("blocks.0", wrong, 0)
    if wrong is not None:
        with pytest.raises(TypeError, match=f"a unit's token is a whole number, found {wrong!r}"):
            Unit("blocks.0", 0, wrong)


def test_a_unit_is_explained_by_the_image_and_is_no_row_of_logits(model: ViT, images: torch.Tensor) -> None:
    unit = Unit("blocks.1", 3, 0)
    with pytest.raises(ValueError, match=r"not at a stage: leave out at='blocks\.0'"):
        explain(model, images, unit, at="blocks.0")
    with pytest.raises(TypeError, match=r"channel 3 of token 0 at blocks\.1.*explain\(\) takes it, rows\(\) does not"):
        collapse(model, images).rows(unit)


# --- what the result remembers of it ---


def results(model: ViT, images: torch.Tensor) -> list[Explanation]:
    unit = explain(model, images, Unit("blocks.0", 3, 1))
    return [unit, explain(model, images, at="blocks.1"), explain(model, images, TopK(2), at="tokens")]


def test_of_and_at_come_along(model: ViT, images: torch.Tensor) -> None:
    for e in results(model, images):
        for part in (e[0], e[1:], e.to("cpu"), e[:0], *([e.of_target(1)] if e.target.dim() == 2 else [])):
            assert (part.of, part.at) == (e.of, e.at)
            part.check()
        arrays = e.numpy()
        assert not {"of", "at"} & arrays.keys()
        assert arrays["contributions"].shape == e.contributions.shape
        assert dataclasses.replace(e, cost=1.0).of == e.of


def test_rows_at_a_stage_have_no_pixels_to_colour(model: ViT, images: torch.Tensor) -> None:
    unit, at, _ = results(model, images)
    assert unit.colour(3).shape == (3, 4, 12, 12)
    with pytest.raises(ValueError, match=r"rows at 'blocks\.1' have no pixels to colour: show the contributions"):
        at.colour()
