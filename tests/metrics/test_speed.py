"""The cost of explanations: what is timed, how often, and what is made of it."""

import itertools
import math

import pytest
import torch

from bcos_vit import explain
from bcos_vit.metrics import Batch, Speed, speed
from toys import images_for, toy

ALL = {"predictions_per_second", "explanations_per_second", "explanations_per_prediction"}


def batches(model, count=4, size=2):
    return [Batch(model, images_for(model, size), torch.zeros(size, dtype=torch.long)) for _ in range(count)]


def measured(model, **settings):
    metrics = Speed(model, **settings)
    for batch in batches(model):
        metrics.update(batch)
    return metrics.compute()


@pytest.mark.parametrize(("timed", "repeats"), [(1, 1), (2, 3), (3, 2)])
def test_so_many_rounds_are_timed_and_one_more_a_batch(monkeypatch, timed, repeats):
    model = toy("bcos_vit_digits")
    explained, predicted = [], []
    monkeypatch.setattr(speed, "explain", lambda *given, **named: explained.append(given) or explain(*given, **named))
    model.register_forward_hook(lambda *_: predicted.append(1))
    measured(model, batches=timed, repeats=repeats)
    assert len(explained) == timed * (1 + repeats)
    assert len(predicted) == timed * (1 + repeats)


def test_fewer_batches_than_asked_for_are_no_harm():
    assert measured(toy("bcos_vit_digits"), batches=9, repeats=1).keys() == ALL


def test_figures_are_medians_over_the_rounds_that_count(monkeypatch):
    model = toy("bcos_vit_digits")
    # seconds of a prediction and of an explanation, by turns; each batch begins with a round that does not count
    rounds = [(90.0, 1.0), (1.0, 2.0), (1.0, 4.0), (1.0, 5.0), (90.0, 1.0), (2.0, 2.0), (4.0, 5.0), (2.0, 1.0)]
    clock = itertools.chain.from_iterable(rounds)
    monkeypatch.setattr(speed, "_seconds", lambda work, device: next(clock))
    found = measured(model, batches=2, repeats=3)
    assert next(clock, None) is None
    # six rounds count: the median of an even number is the lower one in torch
    assert found == {
        "predictions_per_second": pytest.approx(2 / 2.0),
        "explanations_per_second": pytest.approx(2 / 4.0),
        "explanations_per_prediction": pytest.approx(0.5),
    }


def test_a_round_is_timed_from_beginning_to_end(monkeypatch):
    clock = iter([10.0, 12.5])
    done = []
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    assert speed._seconds(lambda: done.append(1), torch.device("cpu")) == 2.5
    assert done == [1]


def test_figures_are_positive_and_finite():
    found = measured(toy("bcos_vit_digits"), batches=2, repeats=2)
    assert found.keys() == ALL
    assert all(0 < value < math.inf for value in found.values())


def test_the_predictions_of_a_conventional_model_are_timed_alone():
    model = toy("standard_vit_digits")
    found = measured(model, batches=2, repeats=2)
    assert found.keys() == {"predictions_per_second"}
    assert 0 < found["predictions_per_second"] < math.inf
    assert Speed(model).rows(found) == {"predictions a second": f"{found['predictions_per_second']:.1f}"}


@pytest.mark.parametrize(("timed", "repeats"), [(0, 3), (3, 0), (-1, 1)])
def test_no_batches_or_no_rounds_are_refused(timed, repeats):
    sentence = f"speed needs at least 1 batch and 1 repeat, found {timed} and {repeats}"
    with pytest.raises(ValueError, match=sentence):
        Speed(toy("bcos_vit_digits"), batches=timed, repeats=repeats)


def test_rows_say_it_in_words():
    found = {
        "predictions_per_second": 1234.56,
        "explanations_per_second": 432.1,
        "explanations_per_prediction": 0.349999,
    }
    assert Speed(toy("bcos_vit_digits")).rows(found) == {
        "predictions a second": "1234.6",
        "explanations a second": "432.1",
        "explanations in the time of a prediction": "0.35",
    }
