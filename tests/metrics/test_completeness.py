"""The ledgers of all predictions, against the explanations themselves."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from bcos_vit import explain
from bcos_vit.metrics import Batch, Completeness, percent
from toys import images_for, toy

SIZES = (3, 4, 1)


def split(model):
    return images_for(model, sum(SIZES)).split(SIZES)


@pytest.mark.parametrize("position", ["sincos", "rope"])
def test_figures_are_those_of_the_explanations(position):
    model = toy("bcos_vit_digits", position=position, logit_scale=20.0)
    metrics = Completeness(model)
    residuals, shares = [], []
    for images in split(model):
        metrics.update(Batch(model, images, torch.zeros(len(images), dtype=torch.long)))
        explanation = explain(model, images)
        residuals += explanation.relative_residual.tolist()
        shares += explanation.image_share.tolist()
    found = metrics.compute()
    assert found["ledgers"] == 8
    middle = (len(shares) - 1) // 2
    assert found["smallest_image_share"] == min(shares)
    assert found["median_image_share"] == np.sort(shares)[middle]
    assert found["largest_residual"] == max(residuals)
    assert found["median_residual"] == np.sort(residuals)[middle]
    assert 0 < found["largest_residual"] < 1e-5
    assert (min(shares) < max(shares) < 1) if position == "sincos" else min(shares) == 1


def test_a_ledger_that_does_not_close_is_the_largest_residual():
    model = toy("bcos_vit_digits")
    metrics = Completeness(model)
    for images, error in zip(split(model), (0.0, 0.5, 0.0), strict=True):
        batch = Batch(model, images, torch.zeros(len(images), dtype=torch.long))
        whole = batch.explanation
        batch.explanation = dataclasses.replace(whole, logit=whole.logit + error * torch.eye(len(images))[0])
        metrics.update(batch)
    found = metrics.compute()
    assert found["largest_residual"] > 0.01
    assert found["median_residual"] < 1e-5


def test_a_residual_that_is_no_number_is_not_left_out():
    model = toy("bcos_vit_digits")
    metrics = Completeness(model)
    batch = Batch(model, images_for(model), torch.zeros(3, dtype=torch.long))
    whole = batch.explanation
    batch.explanation = dataclasses.replace(whole, logit=whole.logit * torch.tensor([1.0, math.nan, 1.0]))
    metrics.update(batch)
    found = metrics.compute()
    assert found["ledgers"] == 3
    assert math.isnan(found["largest_residual"])


def test_a_conventional_model_has_no_figures_and_a_row_that_says_why():
    model = toy("standard_vit_digits")
    metrics = Completeness(model)
    metrics.update(Batch(model, images_for(model), torch.zeros(3, dtype=torch.long)))
    assert metrics.compute() == {}
    assert metrics.rows({}) == {"ledgers checked": "none: a conventional model has no linear map"}


def test_rows_say_it_in_words():
    found = {
        "ledgers": 360.0,
        "largest_residual": 1.0254e-6,
        "median_residual": 1.6719e-7,
        "smallest_image_share": 0.9999999,
        "median_image_share": 1.0,
    }
    assert Completeness(toy("bcos_vit_digits")).rows(found) == {
        "ledgers checked": "360",
        "relative residual, median": "1.7e-07",
        "relative residual, largest": "1.0e-06",
        "image share, median": "100 %",
        "image share, smallest": "99.99 %",
    }


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (1, "100 %"),
        (1 - 1e-16, "99.99 %"),
        (0.9999, "99.99 %"),
        (0.31415, "31.41 %"),
        (0.31419, "31.41 %"),
        (0, "0.00 %"),
    ],
)
def test_only_a_share_of_exactly_one_is_called_100_percent(share, words):
    assert percent(share) == words
