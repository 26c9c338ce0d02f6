"""A run that ends too early says what it leaves and how to go on; one without a test part ends well."""

import json
import os
import shlex
import signal
import time

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning import Callback

import runs
from bcos_vit import create_model
from bcos_vit.config import sentences
from bcos_vit.data import DataModule
from bcos_vit.evaluation import Report
from bcos_vit.photos import PhotoError
from bcos_vit.training import Classifier
from bcos_vit.training import run as training
from bcos_vit.training.ending import override

QUIET = (*runs.SMALL, "explanations.every=null", "+trainer.limit_val_batches=1")


class At(Callback):
    """Does something in the second epoch, before the test, or in it."""

    def __init__(self, hook, action):
        self.action = action
        setattr(self, hook, self.act)

    def act(self, trainer, *_):
        if trainer.testing or (trainer.current_epoch == 1 and not trainer.sanity_checking):
            self.action()


def fail(error):
    def action():
        raise error

    return action


def train(output, *words, at=None):
    original, command = training._callbacks, shlex.join(["python", "train.py", *QUIET, f"output={output}", *words])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Report, "draw_gallery", lambda *_: True)
        if at is not None:
            patch.setattr(training, "_callbacks", lambda *given: [At(*at), *original(*given)])
        return training.train(runs.config(*QUIET, *words, f"output={output}"), command=command)


def words_to_go_on(message):
    (line,) = (line for line in message.splitlines() if line.startswith("go on with: "))
    python, script, *words = shlex.split(line.removeprefix("go on with: "))
    assert (python, script) == ("python", "train.py")
    return words


def test_an_error_while_testing_leaves_the_weights_and_says_how_to_go_on(tmp_path):
    output = tmp_path / "a run"
    with pytest.raises(ZeroDivisionError) as caught:
        train(f"'{output}'", at=("on_test_start", fail(ZeroDivisionError("late"))))
    (note,) = caught.value.__notes__
    assert note.splitlines()[0] == f"best weights: {output / 'model.safetensors'}"
    assert note.splitlines()[1] == f"best checkpoint: {output / 'checkpoints/best.ckpt'}"
    assert create_model(output / "model.safetensors").class_names == tuple("0123456789")
    words = words_to_go_on(note)
    assert words[-1] == f'output="{output}"'
    assert len([word for word in words if word.startswith("output=")]) == 1
    # What is left is the test alone.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", lambda *_: pytest.fail("something was learnt"))
        patch.setattr(Report, "draw_gallery", lambda *_: True)
        report = training.train(runs.config(*words[:-1], f"output={tmp_path / 'again'}"))
    assert report.images == 360
    first, again = (create_model(folder / "model.safetensors") for folder in (output, tmp_path / "again"))
    assert runs.equal(first.state_dict(), again.state_dict())


@pytest.mark.parametrize("hook", ["on_test_start", "on_train_batch_start"])
def test_a_photo_that_was_damaged_meanwhile_is_gone_on_without(tmp_path, hook):
    with pytest.raises(SystemExit) as end, sentences(False):
        train(tmp_path / "run", at=(hook, fail(PhotoError("photos/test/2.png is no image that can be read"))))
    first, *more = end.value.code.splitlines()
    assert first == "error: photos/test/2.png is no image that can be read"
    assert words_to_go_on("\n".join(more))[-1] == "data.corrupt=skip"
    assert (tmp_path / "run/model.safetensors").is_file() == (hook == "on_test_start")


@pytest.mark.parametrize(
    ("hook", "number", "name", "status"),
    [
        ("on_train_batch_start", signal.SIGINT, "Ctrl-C", 130),
        ("on_test_batch_start", signal.SIGINT, "Ctrl-C", 130),
        ("on_validation_batch_start", signal.SIGTERM, "SIGTERM", 143),
        ("on_test_start", signal.SIGTERM, "SIGTERM", 143),
    ],
)
def test_a_signal_ends_with_its_status_and_one_message(tmp_path, capsys, hook, number, name, status):
    before = signal.getsignal(number)
    if number == signal.SIGINT:  # which is ignored in processes that a shell has started in the background
        before = signal.default_int_handler
        signal.signal(number, before)
    with pytest.raises(SystemExit) as end:
        train(tmp_path / "run", at=(hook, lambda: os.kill(os.getpid(), number)))
    assert end.value.code == status
    said = capsys.readouterr().err
    assert said.count(f"stopped by {name}\n") == 1
    assert said.count("go on with: ") == 1
    assert f"last checkpoint: {tmp_path / 'run/checkpoints/last.ckpt'}\n" in said
    assert ("best weights: " in said) == hook.startswith("on_test")
    assert signal.getsignal(number) == before


def test_a_signal_in_the_first_epoch_says_that_nothing_is_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Classifier, "training_step", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        train(tmp_path / "run")
    assert "stopped by SIGTERM\nno epoch had ended, and nothing is kept\n" in capsys.readouterr().err


def test_a_status_of_zero_is_no_way_to_end_early(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        train(tmp_path / "run", at=("on_train_batch_start", fail(SystemExit(0))))
    assert end.value.code == 1
    assert "stopped by a callback\n" in capsys.readouterr().err


def test_every_part_is_looked_at_before_the_first_step(tmp_path, monkeypatch):
    asked = []

    def check(self, splits):
        asked.extend(splits)
        raise PhotoError("photos/test/2.png is no image that can be read")

    monkeypatch.setattr(DataModule, "check_parts", check)
    monkeypatch.setattr(Classifier, "training_step", lambda *_: pytest.fail("something was learnt"))
    with pytest.raises(PhotoError):
        train(tmp_path / "run")
    assert asked == ["train", "val", "test"]
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_test_part_ends_well_and_says_so(tmp_path, monkeypatch, capsys):
    asked, output = [], tmp_path / "run"
    monkeypatch.setattr(DataModule, "check_parts", lambda self, splits: asked.extend(splits))
    opened = DataModule.part
    monkeypatch.setattr(DataModule, "part", lambda self, split: asked.append(split) or opened(self, split))
    report = train(output, "data.test=none")
    assert "test" not in asked
    assert (report.split, report.images) == ("val", 180)
    card = json.loads((output / "card.json").read_text())
    assert card["results"] is None
    assert card["validation"] == report.numbers()
    assert json.loads((output / "report.json").read_text()) == {"split": "val"} | report.numbers()
    assert "results" not in create_model(output / "model.safetensors").about
    said = capsys.readouterr().out
    assert "note: nothing was tested; these are figures of the validation part" in said
    assert "test accuracy" not in said
    assert f"val accuracy: {100 * report.figures['accuracy']['top1']:.2f} %" in said


@pytest.mark.parametrize("value", ["plain", "a b", "a=b,c", "[x]", "it's", 'say "x"', "back\\slash", "end\\", "ü"])
def test_the_command_is_what_hydra_reads(value):
    parsed = OverridesParser.create().parse_override(override(("output", f"runs/{value}")))
    assert parsed.value() == f"runs/{value}"


@pytest.mark.slow
def test_the_command_of_two_processes_says_it_once(tmp_path):
    words = (*QUIET, "recipe.epochs=1000", "trainer.devices=2", "+trainer.strategy=ddp", "output=run")
    (tmp_path / "work").mkdir()
    process = runs.start(*words, folder=tmp_path / "work")
    try:
        while not (tmp_path / "work/run/checkpoints/last.ckpt").exists():
            assert process.poll() is None
            time.sleep(0.2)
        process.terminate()
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 143
    assert said.count("stopped by ") == said.count("go on with: python train.py ") == 1
    assert "Traceback" not in said
