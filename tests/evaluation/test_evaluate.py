"""Evaluation: counts, ledgers, and what is shown."""

import dataclasses

import pytest
import torch
from PIL import Image

from bcos_vit import create_model, explain
from bcos_vit.evaluation import Ledgers, Report, evaluate


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("bcos_vit_digits", depth=1)


@pytest.fixture
def batches(model):
    images = torch.rand(13, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = model(images).argmax(1)
    labels[:4] = (labels[:4] + 1) % 10  # four mistakes
    return list(zip(images.split(5), labels.split(5), strict=True))


def test_counts_every_image_once_over_uneven_batches(model, batches):
    report = evaluate(model, batches)
    assert report.images == 13
    assert report.accuracy == pytest.approx(9 / 13)


def test_ledger_figures_are_those_of_the_explanations(model, batches):
    report = evaluate(model, batches)
    relative = torch.cat([explain(model, images).relative_residual for images, _ in batches])
    assert report.ledgers == Ledgers(float(relative.max()), float(relative.median()), 1.0)


def test_image_share_is_the_smallest_where_positions_are_added(batches):
    torch.manual_seed(0)
    model = create_model("bcos_vit_digits", depth=1, position="sincos")
    report = evaluate(model, batches)
    share = torch.cat([explain(model, images).image_share for images, _ in batches])
    assert report.ledgers.smallest_image_share == float(share.min()) < 1
    assert report.lines()[-1] != "image share: 100 %"


def test_gallery_shows_right_classes_and_contrasts_mistakes(model, batches, tmp_path):
    report = evaluate(model, batches)
    assert report.gallery.target.tolist() == sorted(set(report.gallery.target.tolist()))
    labels = torch.cat([labels for _, labels in batches])[:4]
    assert report.mistakes.against.tolist() == labels.tolist()
    report.mistakes.check()
    assert report.draw_gallery(tmp_path / "gallery.png")
    with Image.open(tmp_path / "gallery.png") as picture:
        extremes = picture.convert("L").getextrema()
        assert picture.width > 300
        assert extremes[1] - extremes[0] > 100  # something is drawn
    assert [p.name for p in tmp_path.iterdir()] == ["gallery.png"]


def test_no_mistakes_no_second_part(model, batches, tmp_path):
    images = batches[1][0]
    report = evaluate(model, [(images, model(images).argmax(1))])
    assert report.accuracy == 1
    assert report.mistakes is None
    assert report.draw_gallery(tmp_path / "gallery.png")


def test_twin_has_accuracy_only(batches, tmp_path):
    report = evaluate(create_model("standard_vit_digits", depth=1), batches)
    assert report.ledgers is None
    assert report.numbers() == {"test_accuracy": report.accuracy, "test_images": 13}
    assert report.lines() == [f"test accuracy: {100 * report.accuracy:.2f} %"]
    assert not report.draw_gallery(tmp_path / "gallery.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("training", [True, False])
def test_model_keeps_its_mode(model, batches, training):
    model.train(training)
    evaluate(model, batches)
    assert model.training is training


def test_nothing_to_evaluate_is_an_error(model):
    with pytest.raises(ValueError, match="holds no images"):
        evaluate(model, [])


def test_gallery_that_cannot_be_written_is_a_sentence(model, batches, tmp_path):
    report = evaluate(model, batches)
    with pytest.raises(OSError, match="cannot write"):
        report.draw_gallery(tmp_path / "missing" / "gallery.png")


def test_a_share_just_below_one_is_not_called_100_percent():
    ledgers = Ledgers(1e-7, 1e-8, 1 - 1e-7)
    report = dataclasses.replace(Report(1.0, 1), ledgers=ledgers)
    assert report.lines()[-1] == "image share: 99.99 %"
