"""Explanations of shifted images: their mean is exact for the mean logit, and says how far the shifts differ."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bcos_vit import Combination, Contrast, Explanation, LedgerError, TopK, explain
from bcos_vit.explanation import inherent, shifts
from bcos_vit.explanation.shifts import draw, shift
from bcos_vit.layers import SixChannels, frozen
from bcos_vit.models.vit import ViT
from laws import assert_close, assert_equal
from toys import NAME, VITC, images_for, random_images, toy

N = 5
TARGETS: dict[str, Any] = {
    "predicted": None,
    "one": 3,
    "per image": [1, 0, 4],
    "several": [[1, 2], [0, 0], [4, 3]],
    "top": TopK(3),
    "contrast": Contrast(1, torch.tensor([2, 3, 0])),
    "mean": Contrast(2),
    "combination": Combination([1, -2, 0, 0.5, 0]),
}


@pytest.fixture
def model() -> ViT:
    return toy(NAME, dtype=torch.float64)  # patches of 4 x 4 pixels


def matrix(size: int, by: int) -> Tensor:
    """The shift along an axis as a matrix, by the reflection of numpy."""
    reach = size - 1
    places = np.pad(np.arange(size), reach, mode="reflect")[reach - by : reach - by + size]
    return torch.eye(size, dtype=torch.float64)[torch.from_numpy(places.copy())]


def moved(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    return torch.einsum("yh,...hw,xw->...yx", down, images, right)


# --- the shift ---


@pytest.mark.parametrize(("down", "right"), [(0, 0), (1, 0), (0, -2), (4, 5), (-4, -5), (3, -1)])
def test_a_shift_is_the_matrix_of_a_reflected_border_and_commutes_with_encoding(down: int, right: int) -> None:
    images = random_images(2, (5, 6), dtype=torch.float64)
    found = shift(images, down, right)
    assert torch.equal(found, moved(images, matrix(5, down), matrix(6, right)))
    encode = SixChannels()
    assert torch.equal(encode(found), shift(encode(images), down, right))
    assert torch.equal(shift(images, 0, 0), images)


# --- the mean ---


@pytest.mark.parametrize("position", ["sincos", "rope"])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_it_is_the_mean_of_explanations_carried_back_by_transposed_matrices(target: Any, position: str) -> None:
    model = toy(NAME, dtype=torch.float64, position=position)
    images = images_for(model)
    e = explain(model, images, target, shifts=N, seed=2).check(1e-12)
    if target is None or isinstance(target, TopK):
        views = [moved(images, matrix(12, y), matrix(12, x)) for y, x in draw(N, (4, 4), 2)]
        logits = torch.stack([model(view).detach() for view in views]).mean(0)
        classes = logits.argmax(1) if target is None else logits.topk(target.k).indices
        assert torch.equal(e.target, classes)
        target = classes
    plain, rows, maps = [], [], []
    for y, x in draw(N, (4, 4), 2):
        down, right = matrix(12, y), matrix(12, x)
        plain.append(explain(model, moved(images, down, right), target))
        rows.append(moved(plain[-1].weights, down.T, right.T))
        encoded = model.encode(images)
        maps.append((rows[-1] * (encoded[:, None] if e.target.dim() == 2 else encoded)).sum(-3))
    assert_close(e.weights, torch.stack(rows).mean(0), 1e-12)
    assert_close(e.contributions, torch.stack(maps).mean(0), 1e-12)
    logits = torch.stack([p.logit for p in plain])
    assert_close(e.logit, logits.mean(0), 1e-12)
    assert_close(e.magnitude, torch.stack([p.magnitude for p in plain]).mean(0), 1e-12)
    assert e.constants.keys() == plain[0].constants.keys()
    for name, line in e.constants.items():
        assert torch.allclose(line, torch.stack([p.constants[name] for p in plain]).mean(0), rtol=1e-12, atol=1e-12)
    assert_close(e.contributions_error, torch.stack(maps).std(0) / math.sqrt(N), 1e-12)
    assert_close(e.logit_error, logits.std(0) / math.sqrt(N), 1e-12)
    assert (e.probability is None) == (plain[0].probability is None)
    assert e.probability is None or torch.equal(e.probability, e.logit.sigmoid())
    assert torch.equal(e.images, images)
    assert (e.target.tolist(), e.of, e.at, e.method) == (plain[0].target.tolist(), plain[0].of, "image", "inherent")
    assert (e.against is None) == (plain[0].against is None)
    assert e.against is None or torch.equal(e.against, plain[0].against)


@pytest.mark.parametrize("name", [NAME, VITC])
def test_the_row_is_the_gradient_of_the_mean_logit(name: str) -> None:
    model = toy(name, dtype=torch.float64)
    images, n = images_for(model, 2), 3
    encoded = model.encode(images).requires_grad_()
    period = model.spec.patch_size
    with frozen():
        views = [shift(encoded, *by) for by in draw(n, (period, period), 0)]
        logit = torch.stack([model.forward_encoded(view) for view in views]).mean(0)[:, 1]
        (row,) = torch.autograd.grad(logit.sum(), encoded)
    e = explain(model, images, 1, shifts=n)
    assert_close(e.weights, row, 1e-12)
    assert float(e.relative_residual.max()) <= 1e-12


class _ShiftedBack(torch.autograd.Function):
    """A mutant: forward a shift, backward the opposite shift instead of the transpose."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, down: int, right: int) -> Tensor:
        ctx.by = (-down, -right)
        return shift(t, down, right)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return shift(gradient, *ctx.by), None, None


def test_a_map_that_is_shifted_back_does_not_close(model: ViT, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_for(model)
    assert float(explain(model, images, shifts=N).relative_residual.max()) <= 1e-12
    monkeypatch.setattr(shifts, "shift", _ShiftedBack.apply)
    wrong = explain(model, images, shifts=N)
    assert float(wrong.relative_residual.min()) > 1e-5
    with pytest.raises(LedgerError, match="3 of 3"):
        wrong.check()


def test_one_shift_is_none(model: ViT) -> None:
    images = images_for(model)
    for target in (2, [[1, 2], [0, 0], [4, 3]], Contrast(1, 2), None):
        plain, e = explain(model, images, target), explain(model, images, target, shifts=1)
        for name, field in plain._fields().items():
            assert torch.equal(e._fields()[name], field), name
        assert (e.shifts, e.contributions_error, e.logit_error, plain.shifts) == (1, None, None, 0)


def test_the_lattice_goes_when_a_whole_period_is_averaged() -> None:
    """Inside the image, as on a grey one of which only the lattice can show."""
    model = toy(NAME, dtype=torch.float64, image_size=24)
    grey = torch.full((1, 3, 24, 24), 0.5, dtype=torch.float64)

    def waves(n: int | None) -> float:
        inside = explain(model, grey, 0, shifts=n).contributions[0, 4:-4, 4:-4]
        return float((inside - inside.mean()).square().mean() / inside.mean().square())

    plain, some, whole = waves(None), waves(4), waves(16)
    assert plain > 10 * whole
    assert plain > some > whole


# --- batches ---


@pytest.mark.parametrize("target", [None, TopK(2), [1, 2, 3, 4, 0, 1]], ids=["predicted", "top", "per image"])
def test_a_result_does_not_depend_on_the_batch(model: ViT, target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_for(model, 6)
    whole = explain(model, images, target, shifts=3)
    monkeypatch.setattr(inherent, "FIRST", 2 * 12 * 12)
    parts = explain(model, images, target, shifts=3, memory=1)
    singly = [
        explain(model, images[i : i + 1], target[i] if isinstance(target, list) else target, shifts=3) for i in range(6)
    ]
    for other in (parts, Explanation.join(singly)):
        assert other._words() == whole._words()
        for name, field in whole._fields().items():
            assert torch.allclose(other._fields()[name], field, rtol=1e-12, atol=1e-13), name


def test_the_cost_is_counted(model: ViT) -> None:
    calls = []
    model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    images = images_for(model)
    for target, cost in ((1, 2 * N), (None, 3 * N), (TopK(2), 4 * N), ([[0, 1]] * 3, 3 * N)):
        calls.clear()
        e = explain(model, images, target, shifts=N)
        backward = N * (1 if e.target.dim() == 1 else e.target.shape[1])
        assert e.cost == cost == len(calls) - 1 + backward  # one image once, to see its tokens


def test_callers_modes(model: ViT) -> None:
    images = images_for(model)
    expected = explain(model, images, shifts=2)
    with torch.inference_mode():
        found = explain(model, images.clone(), shifts=2)
    assert_equal(found, expected)
    assert not any(t.is_inference() or t.requires_grad for t in found._fields().values())
    assert_equal(explain(torch.compile(model, backend="eager"), images, shifts=2), expected)
    low = toy(NAME, dtype=torch.bfloat16)
    e = explain(low, images_for(low), shifts=2).check()
    plain = explain(low, images_for(low))
    assert_equal(explain(low, images_for(low), shifts=np.int64(2)), e)
    for name, field in plain._fields().items():
        assert e._fields()[name].dtype == field.dtype, name
