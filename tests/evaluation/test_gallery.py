"""What an evaluation shows: one rightly predicted image of every class, and mistakes as contrasts."""

import numpy as np
import pytest
import torch
from PIL import Image

from bcos_vit import explain
from bcos_vit.evaluation import Report, evaluate
from evaluations import chequered, quiet, serve, ten_classes, thirteen
from toys import images_for, toy


@pytest.fixture(name="model")
def _model():
    return ten_classes()


@pytest.fixture(name="thirteen")
def _thirteen(model):
    return thirteen(model)


def shown(model, images, labels, **arguments):
    report = evaluate(model, serve(images, labels, **arguments), {}, trainer=quiet())
    return report, report.gallery, report.mistakes


def test_gallery_holds_the_first_right_image_of_every_class(model):
    images = chequered(40)
    labels = model(images).argmax(1)
    labels[::2] = (labels[::2] + 1) % 10  # every other one is wrong
    _, gallery, _ = shown(model, images, labels)
    right = {}
    for index in range(1, 40, 2):
        right.setdefault(int(labels[index]), index)
    assert len(right) > 3
    assert gallery.target.tolist() == sorted(right)
    assert torch.equal(gallery.images, images[[right[label] for label in sorted(right)]])
    gallery.check()


def test_gallery_stops_at_ten_classes():
    model = toy("bcos_vit_digits", num_classes=40, logit_scale=20.0)
    images = chequered(400)
    labels = model(images).argmax(1)
    assert len(labels.unique()) > 10
    names = tuple(map(str, range(40)))
    _, gallery, mistakes = shown(model, images, labels, class_names=names, batch_size=100)
    assert gallery.target.tolist() == labels.unique()[:10].tolist()
    assert mistakes is None


def test_mistakes_are_the_first_five_predicted_against_true(model):
    images = chequered(12)
    predicted = model(images).argmax(1)
    labels = predicted.clone()
    wrong = [1, 2, 4, 6, 7, 9, 11]
    labels[wrong] = (labels[wrong] + 3) % 10
    _, _, mistakes = shown(model, images, labels)
    assert torch.equal(mistakes.images, images[wrong[:5]])
    assert mistakes.target.tolist() == predicted[wrong[:5]].tolist()
    assert mistakes.against.tolist() == labels[wrong[:5]].tolist()
    logits = model(images[wrong[:5]])
    expected = logits.gather(1, predicted[wrong[:5], None]) - logits.gather(1, labels[wrong[:5], None])
    torch.testing.assert_close(mistakes.logit, expected[:, 0])
    assert (mistakes.logit > 0).all()  # why it was predicted rather than the true one
    mistakes.check()


def test_nothing_wrong_and_nothing_right(model):
    images = chequered(3)
    labels = model(images).argmax(1)
    _, gallery, mistakes = shown(model, images, labels)
    assert (gallery is not None, mistakes) == (True, None)
    _, gallery, mistakes = shown(model, images, (labels + 1) % 10)
    assert (gallery, len(mistakes)) == (None, 3)


def test_images_are_shown_as_the_model_saw_them(model):
    images = chequered(6)
    labels = model(1 - images).argmax(1)
    _, gallery, mistakes = shown(model, images, labels, eval_transform=lambda image: 1 - image)
    assert mistakes is None
    assert torch.equal(gallery.images[0], 1 - images[labels == labels.min()][0])


def brightness(path):
    with Image.open(path, formats=["PNG"]) as picture:
        return np.asarray(picture.convert("L"))


def test_both_are_drawn_to_one_picture(model, thirteen, tmp_path):
    report, *_ = shown(model, *thirteen)
    assert report.draw_gallery(tmp_path / "both.png")
    report.mistakes = None
    assert report.draw_gallery(tmp_path / "right.png")
    both, right = brightness(tmp_path / "both.png"), brightness(tmp_path / "right.png")
    assert both.shape[1] > 300
    assert np.ptp(both) > 100  # something is drawn
    assert both.shape[0] > right.shape[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["both.png", "right.png"]


def test_mistakes_alone_are_drawn_too(model, tmp_path):
    mistakes = explain(model, images_for(model, 2))
    assert Report({}, 2, {}, mistakes=mistakes).draw_gallery(tmp_path / "gallery.png")
    assert np.ptp(brightness(tmp_path / "gallery.png")) > 100


def test_nothing_to_show_draws_nothing(tmp_path):
    assert not Report({}, 2, {}).draw_gallery(tmp_path / "gallery.png")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written_is_a_sentence(model, tmp_path):
    report = Report({}, 2, {}, gallery=explain(model, images_for(model, 2)))
    with pytest.raises(OSError, match="cannot write"):
        report.draw_gallery(tmp_path / "missing" / "gallery.png")


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        (1, 1, ["one image of one class", "one mistake:"]),
        (2, 5, ["one image of each of 2 classes", "5 mistakes:"]),
        (0, 2, ["2 mistakes:"]),
        (3, 0, ["one image of each of 3 classes"]),
        (0, 0, []),
    ],
)
def test_captions_say_how_many(model, tmp_path, monkeypatch, right, wrong, expected):
    captions = []
    monkeypatch.setattr("bcos_vit.evaluation.report.columns", lambda parts, names: captions.extend(parts))
    monkeypatch.setattr("bcos_vit.evaluation.report.write_png", lambda figure, path: None)
    e = explain(model, images_for(model, 5))
    assert Report({}, 5, {}, gallery=e[:right], mistakes=e[:wrong]).draw_gallery(tmp_path) is bool(expected)
    assert len(captions) == len(expected)
    assert all(words in caption for words, caption in zip(expected, captions, strict=True))
