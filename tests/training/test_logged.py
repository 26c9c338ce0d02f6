"""What is logged while a model learns, to CSV and to TensorBoard."""

import io
import math

import numpy as np
import pytest
import torch
from lightning import Callback
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import runs
from bcos_vit.data import Digits
from bcos_vit.models import ViT, ViTSpec
from bcos_vit.training import OneVsRest

EVERY_STEP = ("trainer.log_every_n_steps=1", "explanations.every=1", "explanations.images=2")
SCALARS = {
    "gradient_norm",
    "images_per_second",
    "largest_residual",
    "lattice_share",
    "lattice_share_of_noise",
    "lr-Adam",
    "train_loss",
    "val_accuracy",
    "val_loss",
}


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    """A run logged to CSV at every step: its figures, and what was seen of it from outside."""
    output, recorder = tmp_path_factory.mktemp("runs") / "csv", runs.Recorder()
    runs.train(*EVERY_STEP, f"output={output}", watcher=recorder)
    return output, runs.logged(output), recorder


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """The same run, logged to TensorBoard and read back by it."""
    output = tmp_path_factory.mktemp("runs") / "tensorboard"
    runs.train(*EVERY_STEP, "logger=tensorboard", f"output={output}")
    return output, EventAccumulator(str(output / "log"), {"images": 0, "scalars": 0}).Reload()


def test_csv_has_everything(csv):
    _, found, _ = csv
    assert set(found) == SCALARS | {"epoch"}
    assert all(math.isfinite(value) for values in found.values() for _, value in values)


def test_learning_rate_and_gradient_norm_are_those_of_their_step(csv):
    _, found, recorder = csv
    assert found["lr-Adam"] == list(enumerate(recorder.rates))
    assert len(set(recorder.rates)) == 8
    assert found["gradient_norm"] == [(n, pytest.approx(norm, rel=1e-5)) for n, norm in enumerate(recorder.norms)]


def test_gradient_norm_is_the_one_before_clipping(tmp_path):
    recorder = runs.Recorder()
    runs.train(
        *(*EVERY_STEP, "model=standard_vit_digits", "recipe.classifier.clip.max_norm=1e-3"),
        *(f"output={tmp_path / 'twin'}", "recipe.epochs=1"),
        watcher=recorder,
    )
    twin = runs.logged(tmp_path / "twin")["gradient_norm"]
    assert [norm for _, norm in twin] == pytest.approx(recorder.norms, rel=1e-5)
    assert min(recorder.norms) > 0.1


@pytest.mark.parametrize("every", [3, 5])
def test_with_fewer_logged_steps_the_figures_are_still_those_of_their_step(tmp_path, every):
    recorder = runs.Recorder()
    runs.train(
        *(f"output={tmp_path / 'run'}", f"trainer.log_every_n_steps={every}", "explanations.every=null"),
        watcher=recorder,
    )
    found = runs.logged(tmp_path / "run")
    steps = [step for step in range(8) if (step + 1) % every == 0]
    assert found["lr-Adam"] == [(step, recorder.rates[step]) for step in steps]
    assert found["gradient_norm"] == [(step, pytest.approx(recorder.norms[step], rel=1e-5)) for step in steps]


def test_losses_and_accuracy_are_those_of_the_weights_after_the_epoch(csv):
    output, found, recorder = csv
    model, val = _model(output), Digits("val")
    labels = torch.tensor(val.labels)
    for epoch in range(2):
        model.load_state_dict(recorder.weights[4 * epoch + 3])
        logits = model(val.images)
        step = 4 * epoch + 3
        assert found["val_accuracy"][epoch] == (step, pytest.approx(float((logits.argmax(1) == labels).float().mean())))
        assert found["val_loss"][epoch] == (step, pytest.approx(float(OneVsRest().eval()(logits, labels)), rel=1e-5))


def test_a_loss_that_is_no_number_in_one_batch_is_not_left_out(tmp_path, monkeypatch):
    forward = OneVsRest.forward
    monkeypatch.setattr(
        OneVsRest, "forward", lambda self, x, y: forward(self, x, y) * (1 if len(x) == 64 else math.nan)
    )
    runs.train(f"output={tmp_path / 'run'}", "explanations.every=null")  # validates 64, 64 and 52 images
    assert all(math.isnan(loss) for _, loss in runs.logged(tmp_path / "run")["val_loss"])


def test_train_loss_is_the_mean_over_the_epoch(tmp_path):
    losses = []

    class Losses(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            losses.append(float(outputs["loss"]))

    runs.train(f"output={tmp_path / 'run'}", "explanations.every=null", watcher=Losses())
    found = [loss for _, loss in runs.logged(tmp_path / "run")["train_loss"]]
    assert found == pytest.approx([sum(losses[:4]) / 4, sum(losses[4:]) / 4], rel=1e-5)


@pytest.mark.parametrize("within", [(), ("+trainer.val_check_interval=2",)], ids=["after", "within"])
def test_images_per_second_count_training_alone_wherever_validation_falls(tmp_path, monkeypatch, within):
    now = 0.0

    class Clock(Callback):  # a second a step, an hour a validation
        def on_train_batch_start(self, *_):
            nonlocal now
            now += 1

        def on_validation_start(self, *_):
            nonlocal now
            now += 3600

    monkeypatch.setattr("bcos_vit.training.callbacks.time.perf_counter", lambda: now)
    runs.train(f"output={tmp_path / 'run'}", "explanations.every=null", *within, watcher=Clock())
    assert [speed for _, speed in runs.logged(tmp_path / "run")["images_per_second"]] == [64, 64]


def test_images_per_second_are_possible(csv):
    _, found, _ = csv
    assert len(found["images_per_second"]) == 2
    assert all(10 < speed < 1e6 for _, speed in found["images_per_second"])


def test_tensorboard_has_the_same_scalars(csv, events):
    _, found, _ = csv
    _, read = events
    assert set(read.Tags()["scalars"]) - {"hp_metric"} == SCALARS | {"epoch"}
    for name in SCALARS - {"images_per_second"}:  # which is never twice the same
        assert [(e.step, e.value) for e in read.Scalars(name)] == [
            (step, pytest.approx(value, rel=1e-6, abs=1e-12)) for step, value in found[name]
        ], name


def test_tensorboard_has_the_pictures(events):
    output, read = events
    assert read.Tags()["images"] == ["explanations"]
    pictures = read.Images("explanations")
    assert [picture.step for picture in pictures] == [4, 8]  # steps taken
    for epoch, picture in enumerate(pictures, 1):
        shown = Image.open(io.BytesIO(picture.encoded_image_string))
        kept = Image.open(output / f"explanations/epoch_{epoch:04}.png")
        assert np.array_equal(np.asarray(shown.convert("RGB")), np.asarray(kept.convert("RGB")))
        assert shown.size == (picture.width, picture.height)


def _model(output):
    return ViT(ViTSpec(**runs.checkpoint(output)["hyper_parameters"]["spec"])).eval()
