"""Sums of logits: rows are linear in the coefficients, and a class against the mean is one of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bcos_vit import Combination, Contrast, LinearMap, anatomy, collapse, explain
from bcos_vit.models.vit import ViT
from laws import assert_close
from toys import NAME, VITC, images_for, toy

CLASSES = 5
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.fixture(params=[torch.float64, torch.float32], ids=str)
def model(request: pytest.FixtureRequest) -> ViT:
    return toy(NAME, dtype=request.param)


@pytest.fixture
def linear_map(model: ViT) -> LinearMap:
    return collapse(model, images_for(model))


def one_by_one(linear_map: LinearMap) -> Tensor:
    """(B, K, C, H, W): a call a class."""
    return torch.stack([linear_map.rows(c) for c in range(CLASSES)], 1)


def test_the_matrix_is_its_rows(linear_map: LinearMap) -> None:
    assert_close(linear_map.matrix(), one_by_one(linear_map))


@pytest.mark.parametrize("a", [0, 4, np.int64(2), [4, 0, 2], torch.tensor([1, 1, 3])], ids=repr)
def test_a_class_against_the_mean(model: ViT, linear_map: LinearMap, a: Any) -> None:
    rows, logits = one_by_one(linear_map), linear_map.logits
    classes = torch.as_tensor(a).expand(3)
    chosen = torch.arange(3), classes
    e = explain(model, images_for(model), Contrast(a)).check()
    size = ROUNDING[logits.dtype] * rows.abs().max()  # of what is subtracted
    assert ((e.weights - (rows[chosen] - rows.mean(1))).abs() <= size).all()
    torch.testing.assert_close(e.logit, logits[chosen] - logits.mean(1), rtol=0, atol=2 * ROUNDING[logits.dtype])
    assert float(e.constants["bias"].abs().max()) <= ROUNDING[logits.dtype]  # cancels
    assert (e.of, e.probability, e.against) == ("logit minus the mean logit", None, None)
    assert torch.equal(e.target, classes)
    assert torch.equal(linear_map.rows(Contrast(a)), e.weights)


def test_all_classes_against_the_mean_cancel(linear_map: LinearMap) -> None:
    rows = torch.stack([linear_map.rows(Contrast(c)) for c in range(CLASSES)])
    assert float(rows.sum(0).abs().max()) <= ROUNDING[rows.dtype] * rows.abs().max()


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
@pytest.mark.parametrize(
    "coefficients",
    [
        [1.0, -2.0, 0.0, 0.5, 3.0],
        [0, 1, 0, 1, 0],
        [[1.0, 0, 0, 0, 0], [0, 0, -1.5, 0, 2], [0.25, 0.25, 0.25, 0.25, 0]],
        [0] * CLASSES,
    ],
    ids=["shared", "whole numbers", "per image", "nothing"],
)
def test_rows_are_linear_in_the_coefficients(
    model: ViT, linear_map: LinearMap, coefficients: list[Any], kind: Any
) -> None:
    e = explain(model, images_for(model), Combination(kind(coefficients))).check()
    c = torch.as_tensor(coefficients, dtype=linear_map.logits.dtype).expand(3, CLASSES)
    rows = one_by_one(linear_map)
    size = ROUNDING[c.dtype] * rows.abs().max() * c.abs().sum(1).max()
    assert ((e.weights - torch.einsum("bk,bkchw->bchw", c, rows)).abs() <= size).all()
    torch.testing.assert_close(e.logit, (c * linear_map.logits).sum(1))
    torch.testing.assert_close(e.magnitude, (c * linear_map.logits).abs().sum(1))
    torch.testing.assert_close(e.constants["bias"], c.sum(1) * model.spec.bias)
    assert (e.of, e.probability, e.against) == ("combination of logits", None, None)
    assert torch.equal(e.target, c.argmax(1))


@pytest.mark.parametrize("name", [NAME, VITC])
def test_special_combinations_are_the_other_targets(name: str) -> None:
    model = toy(name, dtype=torch.float64)
    images = images_for(model)
    one, two = torch.zeros(CLASSES), torch.tensor([0.0, 1, 0, -1, 0])
    one[2] = 1
    assert torch.equal(explain(model, images, Combination(one)).weights, explain(model, images, 2).weights)
    assert torch.equal(explain(model, images, Combination(two)).weights, explain(model, images, Contrast(1, 3)).weights)
    parts = anatomy(model, images, Combination(two)).check()
    assert torch.equal(parts.heads, anatomy(model, images, Contrast(1, 3)).heads)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (Combination([1.0] * 4), ValueError, "Combination needs 5 coefficients, one a class, found 4"),
        (Combination(torch.ones(3, 6)), ValueError, "needs 5 coefficients, one a class, found 6"),
        (Combination([]), ValueError, "needs 5 coefficients, one a class, found 0"),
        (Combination(torch.ones(2, 5)), ValueError, r"takes \(K,\) or \(3, K\) coefficients, found shape \(2, 5\)"),
        (Combination(torch.ones(3, 1, 5)), ValueError, r"found shape \(3, 1, 5\)"),
        (Combination(1.0), ValueError, r"found shape \(\)"),
        (Combination([0, 1, 2, math.nan, 0]), ValueError, "finite real coefficients, found nan"),
        (Combination([0, 1, 2, -math.inf, 0]), ValueError, "finite real coefficients, found -inf"),
        (Combination(torch.ones(5) * 1j), ValueError, r"finite real coefficients, found 1j"),
        (Combination("abcde"), TypeError, "one a class, found 'abcde'"),
        (Combination([[1.0], [1.0, 2.0]]), TypeError, r"one a class, found \[\[1\.0\], \[1\.0, 2\.0\]\]"),
        (Contrast(5), ValueError, "target 5 is out of range"),
        (Contrast(-1), ValueError, "target -1 is out of range"),
        (Contrast([0, 1]), ValueError, r"one class or \(3,\) classes, found shape \(2,\)"),
        (Contrast(0.5), TypeError, r"whole class numbers, found 0\.5"),
        (Contrast(None), TypeError, "whole class numbers, found None"),
    ],
    ids=repr,
)
def test_sums_that_do_not_fit(linear_map: LinearMap, target: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        linear_map.rows(target)
