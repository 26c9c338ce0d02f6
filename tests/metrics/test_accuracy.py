"""Accuracy, loss and calibration error against independent computations in float64."""

import math

import numpy as np
import pytest
import torch

from bcos_vit.metrics import Accuracy, Batch
from toys import images_for, toy

SIZES = (5, 7, 1)
"""Of the batches that 13 images come in."""


def batch_of(model, logits, labels):
    """A batch for which the model is taken to have said ``logits``."""
    batch = Batch(model, torch.zeros(len(labels), 3, 8, 8), torch.as_tensor(labels))
    batch.logits = torch.as_tensor(logits)
    return batch


def yes_or_no(**fields):
    """The kinds of models whose probabilities are sigmoids."""
    return [toy("bcos_vit_digits", **fields), toy("standard_vit_digits", outputs="sigmoid", **fields)]


def found_for(model, logits, labels, sizes=None):
    """What the group finds for batches of these sizes, by default all in one."""
    metrics = Accuracy(model)
    start = 0
    for size in sizes or [len(labels)]:
        metrics.update(batch_of(model, logits[start : start + size], labels[start : start + size]))
        start += size
    assert start == len(labels)
    return metrics.compute()


def drawn(classes, count=13, spread=4.0, seed=0):
    """Logits and labels; every third label is the class with the largest logit."""
    random = np.random.default_rng(seed)
    logits = spread * random.standard_normal((count, classes)).astype(np.float32)
    labels = random.integers(0, classes, count)
    labels[::3] = logits[::3].argmax(1)
    return logits, labels


def calibration_error(probabilities, right, bins=15):
    """Guo et al., eq. 3: sum over bins of |bin| / n |mean correctness - mean confidence|."""
    which = np.minimum((bins * probabilities).astype(int), bins - 1)
    members = [which == number for number in range(bins)]
    gaps = [abs(right[m].mean() - probabilities[m].mean()) * m.sum() for m in members if m.any()]
    return sum(gaps) / len(right)


@pytest.mark.parametrize("classes", [6, 10])
@pytest.mark.parametrize("name", ["bcos_vit_digits", "standard_vit_digits"])
def test_accuracies_are_those_of_sorted_logits(name, classes):
    logits, labels = drawn(classes)
    ranks = (-logits).argsort(1) == labels[:, None]
    found = found_for(toy(name, num_classes=classes), logits, labels, SIZES)
    assert found["top1"] == pytest.approx(ranks[:, 0].mean(), rel=1e-6)
    assert found["top5"] == pytest.approx(ranks[:, :5].any(1).mean(), rel=1e-6)
    assert 0 < found["top1"] < found["top5"] < 1


@pytest.mark.parametrize("classes", [2, 5])
def test_there_is_no_top_5_of_five_classes_or_fewer(classes):
    model = toy("bcos_vit_digits", num_classes=classes)
    found = found_for(model, *drawn(classes))
    assert list(found) == ["top1", "loss", "calibration_error"]
    assert not any("top-5" in row for row in Accuracy(model).rows(found))


def test_loss_of_sigmoids_is_binary_cross_entropy_mean_over_classes():
    logits, labels = drawn(7)
    z, target = logits.astype(np.float64), np.eye(7)[labels]
    p = 1 / (1 + np.exp(-z))
    expected = -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean()
    for model in yes_or_no(num_classes=7):
        assert found_for(model, logits, labels, SIZES)["loss"] == pytest.approx(expected, rel=1e-6)


def test_loss_of_a_conventional_model_is_cross_entropy():
    logits, labels = drawn(7)
    z = logits.astype(np.float64)
    expected = (np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels]).mean()
    found = found_for(toy("standard_vit_digits", num_classes=7), logits, labels, SIZES)
    assert found["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["bcos_vit_digits", "standard_vit_digits"])
@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])
def test_calibration_error_is_that_of_fifteen_bins(name, spread):
    logits, labels = drawn(6, count=400, spread=spread)
    z = logits.astype(np.float64)
    p = 1 / (1 + np.exp(-z)) if name.startswith("bcos") else np.exp(z) / np.exp(z).sum(1, keepdims=True)
    expected = calibration_error(p.max(1), z.argmax(1) == labels)
    found = found_for(toy(name, num_classes=6), logits, labels, (150, 249, 1))
    assert found["calibration_error"] == pytest.approx(expected, abs=1e-6)
    assert expected > 0.01


def test_calibration_error_of_a_twin_with_sigmoids_is_that_of_sigmoids():
    logits, labels = drawn(6, count=400)
    bcos, twin = (found_for(model, logits, labels)["calibration_error"] for model in yes_or_no(num_classes=6))
    assert twin == bcos != found_for(toy("standard_vit_digits", num_classes=6), logits, labels)["calibration_error"]


@pytest.mark.parametrize("name", ["bcos_vit_digits", "standard_vit_digits"])
def test_certainty_itself_belongs_to_the_last_bin(name):
    certain, sure = [60.0, -60.0, -60.0], [4.0, -60.0, -60.0]  # probabilities 1 in float32, and 0.98
    if name.startswith("standard"):
        sure = [4.0, 0.0, -60.0]
    found = found_for(toy(name, num_classes=3), np.float32([certain, sure]), np.array([1, 0]))
    assert found["calibration_error"] == pytest.approx((1 + 1 / (1 + math.exp(-4))) / 2 - 0.5, abs=1e-6)


def test_calibration_is_that_of_the_predicted_class_where_probabilities_are_equal():
    logits = np.float32([[30.0, 60.0, 0.0]])  # both sigmoids are 1 in float32
    found = found_for(toy("bcos_vit_digits", num_classes=3), logits, np.array([1]))
    assert found["top1"] == 1
    assert found["calibration_error"] == pytest.approx(0, abs=1e-6)


def test_a_loss_that_is_no_number_is_not_left_out():
    logits, labels = drawn(6)
    logits[2, 1] = math.nan
    for name in ("bcos_vit_digits", "standard_vit_digits"):
        assert math.isnan(found_for(toy(name, num_classes=6), logits, labels, SIZES)["loss"])


def test_figures_of_a_real_model_are_those_of_its_logits():
    model = toy("bcos_vit_digits", num_classes=10, logit_scale=20.0)
    images = images_for(model, 9)
    labels = torch.arange(9)
    metrics = Accuracy(model)
    metrics.update(Batch(model, images, labels))
    assert metrics.compute() == found_for(model, model(images).detach().numpy(), labels.numpy())


def test_rows_say_it_in_words():
    rows = Accuracy(toy("bcos_vit_digits")).rows(
        {"top1": 0.98333, "top5": 1.0, "loss": 0.105371, "calibration_error": 0.007912}
    )
    assert rows == {
        "accuracy, top-1": "98.33 %",
        "accuracy, top-5": "100.00 %",
        "loss": "0.1054",
        "calibration error": "0.0079",
    }
