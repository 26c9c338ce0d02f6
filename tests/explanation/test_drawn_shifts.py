"""Which shifts are drawn, where their standard errors are kept, and what is refused."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bcos_vit import Explanation, TopK, Unit, compile_explainer, explain
from bcos_vit.explanation import shifts
from bcos_vit.explanation.shifts import draw
from bcos_vit.layers import BcosLinear, SixChannels
from bcos_vit.models.vit import ViT
from laws import assert_equal
from toys import NAME, VITC, images_for, random_images, toy

N = 5


@pytest.fixture
def model() -> ViT:
    return toy(NAME, dtype=torch.float64)  # patches of 4 x 4 pixels


# --- which shifts ---


@pytest.mark.parametrize("period", [(1, 1), (4, 4), (2, 6), (3, 5), (16, 16)])
def test_a_period_holds_every_shift_once_and_begins_with_none(period: tuple[int, int]) -> None:
    everything = draw(math.prod(period), period, seed=1)
    assert everything[0] == (0, 0)
    assert len(set(everything)) == math.prod(period)
    for axis, p in enumerate(period):
        steps = {by[axis] for by in everything}
        assert steps == set(range(-(p // 2), p - p // 2))
        for start in range(0, len(everything), p):  # waves along an axis cancel
            assert {by[axis] for by in everything[start : start + p]} == steps
    assert all(draw(n, period, seed=1) == everything[:n] for n in range(1, len(everything)))


def test_the_seed_decides_and_nothing_else(model: ViT) -> None:
    images = images_for(model)
    states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    e = explain(model, images, shifts=N, seed=1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])
    random.seed(5)
    torch.manual_seed(5)
    assert_equal(explain(model, images, shifts=N, seed=1), e)
    assert_equal(explain(model, images, shifts=N), explain(model, images, shifts=N, seed=0))
    assert not torch.equal(explain(model, images, shifts=N).weights, e.weights)
    assert len({tuple(draw(16, (16, 16), seed)) for seed in range(20)}) == 20


class Pixels(nn.Module):
    """A model without stages."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = SixChannels()
        self.classify = BcosLinear(6 * 9 * 20, 5)

    def forward_encoded(self, encoded: Tensor) -> Tensor:
        return self.classify(encoded.flatten(1))


@pytest.mark.parametrize(
    ("make", "size", "period"),
    [(lambda: toy(NAME), (12, 20), (4, 4)), (lambda: toy(VITC), (48, 48), (16, 16)), (Pixels, (9, 20), (9, 16))],
    ids=["patches", "stem", "no stages"],
)
def test_the_period_is_a_token(
    make: Callable[[], nn.Module], size: tuple[int, int], period: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def watched(*given: Any) -> Any:
        seen.append(given)
        return draw(*given)

    monkeypatch.setattr(shifts, "draw", watched)
    e = explain(make().eval(), random_images(2, size), shifts=2, seed=3).check()
    assert seen == [(2, period, 3)]
    assert e.contributions.shape == (2, *size)


# --- the result ---


@pytest.mark.parametrize("target", [None, TopK(2)], ids=["one", "several"])
def test_errors_are_kept_wherever_the_explanation_goes(model: ViT, target: Any, tmp_path: Path) -> None:
    e = explain(model, images_for(model), target, shifts=2)
    lead = e.target.shape
    assert e.contributions_error.shape == (*lead, 12, 12)
    assert e.logit_error.shape == lead
    for part in (e, e[1:], e[0]):
        part.save(tmp_path / "e.safetensors")
        found = Explanation.load(tmp_path / "e.safetensors")
        assert_equal(found, part)
        assert (found.shifts, repr(found)) == (2, repr(part))
    assert "(inherent, 2 shifts)" in repr(e)
    assert torch.equal(e[1].logit_error, e.logit_error[1])
    assert e.to("meta").contributions_error.is_meta
    assert np.array_equal(e.numpy()["contributions_error"], e.contributions_error.numpy())
    if target is not None:
        assert torch.equal(e.of_target(1).contributions_error, e.contributions_error[:, 1])
        assert e.of_target(1).check().shifts == 2


def test_a_picture_says_so(model: ViT) -> None:
    e = explain(model, images_for(model, 1), shifts=3)
    words = [text.get_text() for ax in e.plot().axes for text in ax.texts]
    assert any(re.search(rf"std err +{float(e.logit_error):.3f}\n.*\nshifts +3$", text) for text in words)
    words = [text.get_text() for ax in explain(model, e.images).plot().axes for text in ax.texts]
    assert not any("shifts" in text or "std err" in text for text in words)


# --- wrong use ---


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"shifts": 0}, ValueError, "shifts must be at least 1, found 0; leave it out"),
        ({"shifts": -2}, ValueError, "shifts must be at least 1, found -2"),
        ({"shifts": True}, TypeError, "shifts must be a whole number, found True"),
        ({"shifts": 2.0}, TypeError, r"shifts must be a whole number, found 2\.0"),
        ({"shifts": 2, "seed": None}, TypeError, "seed must be a whole number, found None"),
        ({"shifts": 2, "seed": False}, TypeError, "seed must be a whole number, found False"),
        ({"shifts": 17}, ValueError, "shifts=17 asks for more shifts than differ: .* 4 x 4 pixels, so there are 16"),
        ({"shifts": 2, "at": "blocks.0"}, ValueError, "shifts move the pixels, not the tokens of a stage"),
        ({"shifts": 2, "target": Unit("blocks.0", 1, 2)}, ValueError, "not the tokens of a stage"),
        ({"shifts": 2, "target": 5}, ValueError, "target 5 is out of range: the classes are 0 to 4"),
        ({"shifts": 2, "target": TopK(6)}, ValueError, r"TopK\(6\) asks for more classes than the model's 5"),
        ({"shifts": 2, "target": [1, 2]}, ValueError, "target must be one class"),
    ],
)
def test_wrong_use_is_said_in_a_sentence(
    model: ViT, arguments: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        explain(model, images_for(model), **arguments)


def test_models_and_images_that_do_not_fit(model: ViT) -> None:
    with pytest.raises(TypeError, match="conventional model, not dynamic linear"):
        explain(toy("standard_simple_vit_ti_patch16_224"), torch.rand(1, 3, 12, 12), shifts=2)
    with pytest.raises(ValueError, match=r"must have shape \(B, 3, H, W\)"):
        explain(model, torch.rand(3, 12, 12).double(), shifts=2)
    with pytest.raises(ValueError, match="multiples of the patch size"):
        explain(model, torch.rand(1, 3, 12, 13).double(), shifts=2)
    with pytest.raises(ValueError, match=r"image values must lie in \[0, 1\]"):
        explain(model, 2 * torch.ones(1, 3, 12, 12).double(), shifts=2)


def test_a_compiled_explainer_refuses(model: ViT) -> None:
    with pytest.raises(
        ValueError, match=r"shifts no images \(shifts=4\): bcos_vit.explain\(model, images, target, shifts"
    ):
        compile_explainer(model, backend="eager")(images_for(model), shifts=4)
