"""Drawing, logging to a service and notes are extras: where they fail, a sentence warns and the run goes on."""

import json
import warnings

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

import runs
from bcos_vit.data import Digits
from bcos_vit.evaluation import Report
from bcos_vit.evaluation import run as evaluation
from bcos_vit.evaluation.command import evaluate_as
from bcos_vit.evaluation.side_effects import side_effect
from bcos_vit.training import Classifier, callbacks
from bcos_vit.training import run as training
from bcos_vit.training.callbacks import Skipped, Throughput

ONE = ("recipe.epochs=1", "+trainer.limit_val_batches=1", "explanations.images=1")


def fail(*_, **__):
    raise RuntimeError("the service is gone\nand more")


def ended(output):
    assert {"card.json", "report.json", "model.safetensors"} <= set(runs.files(output))


@pytest.mark.parametrize(
    "broken",
    [
        {
            "log_metrics of CSVLogger": (CSVLogger, "log_metrics"),
            "log_hyperparams of CSVLogger": (CSVLogger, "log_hyperparams"),
            "save of CSVLogger": (CSVLogger, "save"),
            "finalize of CSVLogger": (CSVLogger, "finalize"),
        },
        {"the picture of epoch 1": (callbacks, "png")},
        {"the picture of epoch 1": (callbacks, "explain"), "the gallery": (evaluation, "_show")},
    ],
    ids=["log", "drawing", "explaining"],
)
def test_what_fails_beside_a_run_is_a_warning(tmp_path, monkeypatch, broken):
    for owner, name in broken.values():
        monkeypatch.setattr(owner, name, fail)
    with pytest.warns(UserWarning, match="is missing, the run goes on without it") as warned:
        runs.train(*ONE, f"output={tmp_path / 'run'}")
    said = {str(w.message) for w in warned}
    sentence = "{} is missing, the run goes on without it: RuntimeError: the service is gone"
    assert {sentence.format(missing) for missing in broken} <= said
    ended(tmp_path / "run")


def test_a_picture_that_a_service_does_not_take_is_on_disk_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(TensorBoardLogger, "experiment", property(lambda _: Broken()))
    with pytest.warns(UserWarning, match="^the picture of step 4 in TensorBoardLogger is missing"):
        runs.train(*ONE, f"output={tmp_path / 'run'}", "logger=tensorboard")
    assert (tmp_path / "run/explanations/epoch_0001.png").is_file()
    ended(tmp_path / "run")


class Broken:
    """A service that takes nothing."""

    def __getattr__(self, name):
        return fail


def test_a_gallery_that_cannot_be_drawn_ends_neither_training_nor_evaluation(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Report, "draw_gallery", fail)
    with pytest.warns(UserWarning, match=r"^the gallery .*gallery\.png is missing"):
        training.train(runs.config(*runs.SMALL, *ONE, "explanations=null", f"output={tmp_path / 'run'}"))
    ended(tmp_path / "run")
    words = ("metrics=[accuracy]", "+trainer.enable_progress_bar=false", "+trainer.limit_test_batches=1")
    with pytest.warns(UserWarning, match=r"^the gallery .*gallery\.png is missing"):
        evaluate_as(runs.config(*words, f"output={tmp_path / 'out'}", name="evaluate"))
    assert json.loads((tmp_path / "out/report.json").read_text())["images"] == 64
    assert capsys.readouterr().out.count("gallery: none, a warning above says why") == 2


def test_class_names_that_cannot_be_drawn_end_no_run(tmp_path, monkeypatch):
    names = ("K\udce4tzchen", "a\x00b", "\ud83d", "\x1b[31m", "$x^", "line\nbreak", "", "\u202e", "{", "\\")
    monkeypatch.setattr(Digits, "class_names", names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whether they can be drawn is the picture's affair
        report = training.train(runs.config(*runs.SMALL, *ONE, f"output={tmp_path / 'run'}"))
    assert report.images == 360
    ended(tmp_path / "run")


def test_a_ledger_that_does_not_close_stays_an_alarm(tmp_path):
    with pytest.warns(UserWarning, match="^alarm after epoch 1: "):
        runs.train(*ONE, f"output={tmp_path / 'run'}", "+explanations.tolerance=0", "explanations.images=40")


def test_an_error_of_the_training_itself_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(Classifier, "validation_step", fail)
    with pytest.raises(RuntimeError, match="the service is gone"):
        runs.train(*ONE, f"output={tmp_path / 'run'}")


class Trainer:
    """As much of one as the callbacks ask for."""

    is_global_zero, world_size = True, 2

    def __init__(self, datamodule=None):
        self.datamodule = datamodule
        self.logged = {}

    def log(self, name, value, **_):
        self.logged[name] = value


class Unreadable:
    """Data with one image that cannot be read, below a folder whose name is no text."""

    def skipped(self, split):
        return [0]

    def reasons(self, split, indices):
        return ["photos/K\udce4tzchen/1.png is no image that can be read"]


def test_the_list_of_skipped_images_names_what_is_no_text_and_is_no_reason_to_end(tmp_path):
    trainer = Trainer(Unreadable())
    Skipped(tmp_path / "skipped.txt").on_train_epoch_end(trainer, trainer)
    assert (tmp_path / "skipped.txt").read_text() == "photos/K\\udce4tzchen/1.png is no image that can be read\n"
    with pytest.warns(UserWarning, match="^the list of 1 training images that cannot be read is missing"):
        Skipped(tmp_path / "nowhere/skipped.txt").on_train_epoch_end(trainer, trainer)
    assert trainer.logged == {"skipped_images": 1.0}


def test_a_clock_that_stands_still_is_no_reason_to_end():
    trainer = Trainer()
    Throughput().on_train_epoch_end(trainer, trainer)
    assert trainer.logged["images_per_second"] != trainer.logged["images_per_second"]


def test_a_side_effect_swallows_no_signal():
    with pytest.raises(KeyboardInterrupt), side_effect("nothing"):
        raise KeyboardInterrupt
