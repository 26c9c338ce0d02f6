"""What the user adds is added: callbacks, loggers, and the trainer's own words."""

import pytest
from lightning import Callback
from lightning.pytorch.callbacks import EarlyStopping

import runs
from bcos_vit.evaluation import Report
from bcos_vit.evaluation.command import evaluate_as
from bcos_vit.evaluation.trainer import given_callbacks

QUIET = ("explanations.every=null", "+trainer.limit_val_batches=1")


class Told(Callback):
    """Keeps what it was called for."""

    seen: list = []  # noqa: RUF012 - shared on purpose: Hydra makes the instances

    def __init__(self, name="told"):
        self.name = name

    def on_train_start(self, trainer, module):
        Told.seen.append((self.name, [type(callback).__name__ for callback in trainer.callbacks]))

    def on_test_start(self, trainer, module):
        Told.seen.append((self.name, "test"))


@pytest.fixture(autouse=True)
def _nothing_seen(monkeypatch):
    monkeypatch.setattr(Told, "seen", [])


def told(name):
    return f"{{_target_: test_user_callbacks.Told, name: {name}}}"


@pytest.fixture(autouse=True)
def _importable(monkeypatch, request):
    monkeypatch.syspath_prepend(request.path.parent)
    import sys

    monkeypatch.setitem(sys.modules, "test_user_callbacks", sys.modules[__name__])


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([f"+trainer.callbacks={told('single')}"], ["single"]),
        ([f"+callbacks.mine={told('named')}", f"+trainer.callbacks=[{told('a')},{told('b')}]"], ["named", "a", "b"]),
    ],
    ids=["single", "both"],
)
def test_callbacks_of_the_user_are_called_besides_ours(tmp_path, words, names):
    runs.train(f"output={tmp_path / 'run'}", "ema=0.9", *QUIET, *words)
    started = [entry for entry in Told.seen if entry[1] != "test"]
    assert [name for name, _ in started] == names
    order = started[0][1]
    assert order.index("Told") < order.index("EMAWeightAveraging") < order.index("BestCheckpoint")
    assert {"LearningRateMonitor", "Throughput"} <= set(order)
    assert {"best.ckpt", "last.ckpt"} == {p.name for p in (tmp_path / "run/checkpoints").iterdir()}
    assert "images_per_second" in runs.logged(tmp_path / "run")


def test_early_stopping_ends_a_run_as_any_other_ends(tmp_path, monkeypatch):
    runs.prescribe(monkeypatch, 0.5, 0.9, 0.4, 0.3, 0.2, 0.1)
    words = ("callbacks=early_stopping", "callbacks.early_stopping.patience=2", "recipe.epochs=6")
    report = runs.train(f"output={tmp_path / 'run'}", *QUIET, *words)
    assert runs.checkpoint(tmp_path / "run")["epoch"] == 3  # two epochs after the best one, of six
    assert runs.checkpoint(tmp_path / "run", "best")["epoch"] == 1
    assert report.images == 360
    assert {"model.safetensors", "card.json", "report.json"} <= set(runs.files(tmp_path / "run"))


def test_choices_of_several_groups_are_all_built():
    chosen = runs.config("callbacks=[early_stopping]", f"+callbacks.mine={told('x')}", "+callbacks.none=null")
    assert [type(callback) for callback in given_callbacks(chosen)] == [EarlyStopping, Told]
    assert given_callbacks(runs.config()) == []
    assert given_callbacks(runs.config("+trainer.callbacks=null")) == []


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("+trainer.callbacks=[3]", r"^trainer\.callbacks holds 3, without a `_target_`, where a lightning.Callback is"),
        ("+trainer.callbacks=early_stopping", r"^trainer\.callbacks holds 'early_stopping', without a `_target_`"),
        ("+callbacks.a={_target_: datetime.date, year: 2024, month: 5, day: 6}", "^callbacks holds datetime.date, "),
        ("+callbacks.a={_target_: lightning.pytorch.callbacks.Timer, _partial_: true}", "Timer with `_partial_: true`"),
        ("+callbacks.a={monitor: val_loss}", r"^callbacks holds {'monitor': 'val_loss'}, without a `_target_`"),
        ("+trainer.logger=3", "^trainer.logger holds 3, without a `_target_`, where a Lightning logger is expected"),
    ],
)
def test_what_is_no_callback_or_logger_is_named_and_nothing_is_left(tmp_path, word, sentence):
    with pytest.raises(TypeError, match=sentence):
        runs.train(f"output={tmp_path / 'run'}", word)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("word", ["true", "false"])
def test_a_run_keeps_its_log(tmp_path, word):
    with pytest.raises(ValueError, match=rf"^trainer\.logger={word} is not taken, .*logger=csv, tensorboard or wandb"):
        runs.train(f"output={tmp_path / 'run'}", f"+trainer.logger={word}")


def test_a_second_logger_writes_besides_the_first(tmp_path):
    runs.train(f"output={tmp_path / 'run'}", *QUIET, "+logger@trainer.logger=tensorboard")
    written = {p.name.split(".")[0] for p in (tmp_path / "run/log").iterdir()}
    assert {"metrics", "events"} <= written


def test_words_of_the_trainer_are_taken(tmp_path):
    runs.train(f"output={tmp_path / 'run'}", *QUIET, "trainer.max_epochs=1", "+trainer.profiler=simple")
    assert runs.checkpoint(tmp_path / "run")["epoch"] == 0


def test_evaluation_takes_callbacks_and_names_what_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(Report, "draw_gallery", lambda *_: True)
    quiet = ("+trainer.enable_progress_bar=false", "metrics=[accuracy]", f"output={tmp_path / 'out'}")
    with pytest.raises(TypeError, match=r"^trainer\.callbacks holds 3"):
        evaluate_as(runs.config(*quiet, "+trainer.callbacks=[3]", name="evaluate"))
    evaluate_as(runs.config(*quiet, f"+trainer.callbacks={told('seen')}", name="evaluate"))
    assert Told.seen == [("seen", "test")]


def test_an_error_of_a_callback_of_the_user_ends_the_run(tmp_path, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("mine")

    monkeypatch.setattr(Told, "on_train_start", fail)
    with pytest.raises(ZeroDivisionError, match="mine"):
        runs.train(f"output={tmp_path / 'run'}", *QUIET, f"+trainer.callbacks={told('x')}")
