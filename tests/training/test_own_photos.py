"""data=folder: the model gets the logits, the class names and the image size of one's own photos."""

import json
import shlex

import pytest
import torch
from omegaconf import OmegaConf

from bcos_vit import create_model, explain
from bcos_vit.evaluation.setting import model_and_data
from bcos_vit.training import callbacks
from bcos_vit.training import run as training
from runs import SMALL, config, write_photos

CLASSES = ("blue tit", "crane", "wren")
IMAGES = {"train": 5, "val": 1, "test": 2}  # of each class


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    return write_photos(root, {f"{part}/{name}": count for part, count in IMAGES.items() for name in CLASSES})


def of_folder(photos, *overrides):
    return config(
        *SMALL,
        *("data=folder", "data.num_workers=0", "data.batch_size=4", "recipe.classifier.schedule.warmup_steps=1"),
        *(f"data.root={photos}", *overrides),
    )


@pytest.fixture(scope="module")
def learnt(photos, tmp_path_factory):
    """A run on the folder with images of 12 pixels: its output, its report, and the images that were explained."""
    output, explained = tmp_path_factory.mktemp("runs") / "birds", []

    def noting(model, images):
        explained.append(explain(model, images))
        return explained[-1]

    chosen = of_folder(photos, "image_size=12", "explanations.images=50", f"output={output}")
    command = shlex.join(["python", "train.py", "data=folder", f"data.root={photos}"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "explain", noting)
        report = training.train(chosen, command=command)
    return output, report, explained


def test_model_has_the_classes_of_the_folder(learnt):
    output, report, _ = learnt
    model = create_model(output / "model.safetensors")
    assert model.class_names == CLASSES
    assert model.spec.num_classes == 3
    assert model(torch.rand(2, 3, 12, 12)).shape == (2, 3)
    assert create_model(output / "checkpoints/best.ckpt").class_names == CLASSES
    assert report.class_names == CLASSES
    assert report.images == 6
    assert "top5" not in report.figures["accuracy"]
    assert (output / "gallery.png").exists()


def test_image_size_reaches_model_and_transforms(learnt):
    output, _, explained = learnt
    model = create_model(output / "model.safetensors")
    assert model.spec.image_size == 12
    assert model.transform.image_size == 12
    assert OmegaConf.load(output / "config.yaml").image_size == 12
    assert [e.images.shape for e in explained] == [(3, 3, 12, 12)]  # no more than the validation part has


def test_without_image_size_that_of_the_model_is_used(photos, tmp_path, monkeypatch):
    shapes = set()
    step = training.Classifier.training_step

    def noting(self, batch, index):
        shapes.add(tuple(batch[0].shape[1:]))
        return step(self, batch, index)

    monkeypatch.setattr(training.Classifier, "training_step", noting)
    output = tmp_path / "run"
    training.train(of_folder(photos, "explanations.every=null", f"output={output}"))
    assert shapes == {(3, 8, 8)}
    assert create_model(output / "model.safetensors").spec.image_size == 8


def test_card_names_the_folder_and_does_not_guess_a_licence(learnt, photos):
    output, _, _ = learnt
    card = json.loads((output / "card.json").read_text())
    assert str(photos) in card["command"]
    assert (card["data"], card["data_licence"]) == ("bcos_vit.data.Folder", "that of the folder's owner")


def test_logits_asked_for_are_not_overruled(photos, tmp_path):
    with pytest.raises(ValueError, match="the data has 3 classes, but the model 7 logits"):
        training.train(of_folder(photos, "+model.num_classes=7", f"output={tmp_path / 'run'}"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("root", "sentence"),
    [
        ("", "no folder is given: say where the images lie, as data.root=FOLDER"),
        ("nowhere", "there is no folder nowhere"),
    ],
)
def test_a_missing_folder_is_a_sentence_and_leaves_nothing(tmp_path, root, sentence):
    with pytest.raises((OSError, ValueError), match=sentence):
        training.train(config(*SMALL, "data=folder", f"data.root={root}", f"output={tmp_path / 'run'}"))
    assert list(tmp_path.iterdir()) == []


def test_photos_that_are_shrunk_to_next_to_nothing_are_said_to_be(tmp_path, capfd):
    root = write_photos(tmp_path / "photos", {f"{part}/{name}": 1 for part in IMAGES for name in "ab"}, size=40)
    model_and_data(of_folder(root), "val", adapt=True)
    said = capfd.readouterr().err
    assert "photos of 40 x 40 pixels are shrunk to 8 x 8, which is what bcos_vit_digits is made for" in said
    model_and_data(of_folder(root, "image_size=20"), "val", adapt=True)
    assert capfd.readouterr().err == ""


def test_a_step_of_more_images_than_there_are_is_said_to_be(photos, tmp_path, capfd):
    training.train(of_folder(photos, f"output={tmp_path / 'run'}", "image_size=12", "data.batch_size=64"))
    assert "note: there are 15 images to learn from, and a step takes all of them" in capfd.readouterr().out
