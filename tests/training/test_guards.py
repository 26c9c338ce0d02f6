"""What would go wrong in silence is refused, or done right: recipes, resumption, precision, cards."""

import dataclasses
import json
import math
import shutil

import pytest
import torch
from lightning import Callback
from omegaconf import open_dict
from omegaconf.errors import OmegaConfBaseException

import runs
from bcos_vit import create_model, save_model
from bcos_vit.config import sentences
from bcos_vit.evaluation.command import evaluate_as
from bcos_vit.evaluation.report import as_json
from toys import toy


class Seen(Callback):
    """The first images of every epoch."""

    def __init__(self):
        self.first = []

    def on_train_batch_start(self, trainer, module, batch, index):
        if index == 0:
            self.first.append(batch[0].sum().item())


@pytest.mark.parametrize(
    ("name", "recipe", "given"),
    [("standard_vit_digits", "bcos_digits", "standard_digits"), ("bcos_vit_digits", "standard_digits", "bcos_digits")],
)
def test_a_recipe_for_the_other_family_is_refused(tmp_path, name, recipe, given):
    with pytest.raises(ValueError, match=rf"{name} is of family .*: give recipe={given}"):
        runs.train(f"output={tmp_path / 'run'}", f"model.name={name}", f"recipe={recipe}")


def test_a_resumed_run_does_not_see_the_first_epochs_again(tmp_path):
    whole, again = Seen(), Seen()
    quiet = ("recipe.epochs=4", "explanations.every=null")
    with pytest.raises(runs.Cut):
        runs.train(f"output={tmp_path / 'cut'}", *quiet, watcher=runs.Recorder(cut=10))
    runs.train(f"output={tmp_path / 'whole'}", *quiet, watcher=whole)
    last = tmp_path / "cut/checkpoints/last.ckpt"
    runs.train(f"output={tmp_path / 'again'}", *quiet, f"resume={last}", watcher=again)
    assert len(again.first) == 2
    assert not set(again.first) & set(whole.first)


def test_a_run_that_was_moved_brings_its_best_checkpoint_along(tmp_path):
    quiet = ("explanations.every=null", "recipe.epochs=4")
    with pytest.raises(runs.Cut):
        runs.train(f"output={tmp_path / 'cut'}", *quiet, watcher=runs.Recorder(cut=10))
    shutil.move(tmp_path / "cut", tmp_path / "moved")
    best = (tmp_path / "moved/checkpoints/best.ckpt").read_bytes()
    again = tmp_path / "again"

    class Copied(Callback):
        def on_train_start(self, trainer, module):
            assert (again / "checkpoints/best.ckpt").read_bytes() == best

    runs.train(f"output={again}", *quiet, f"resume={tmp_path / 'moved/checkpoints/last.ckpt'}", watcher=Copied())


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_every_precision_draws_explanations_and_reports(tmp_path, precision):
    report = runs.train(f"output={tmp_path / 'run'}", f"trainer.precision={precision}")
    assert report.images == 360
    assert report.gallery is not None
    assert (tmp_path / "run/explanations/epoch_0002.png").is_file()


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_processes_that_could_not_report_are_refused(tmp_path, strategy):
    with pytest.raises(ValueError, match=r"give trainer\.strategy=ddp$"):
        runs.train(f"output={tmp_path / 'run'}", "trainer.devices=2", f"+trainer.strategy={strategy}")
    assert not (tmp_path / "run").exists()


class Start(Callback):
    """The model at the start of training."""

    def on_train_start(self, trainer, module):
        self.bias = module.model.logits.bias
        self.state = {name: tensor.clone() for name, tensor in module.model.state_dict().items()}


@pytest.mark.parametrize("classes", [3, 10])
def test_trained_weights_for_another_number_of_classes_get_a_fresh_head(tmp_path, classes):
    model, path = toy("bcos_vit_digits", num_classes=classes), tmp_path / "mine.safetensors"
    model.class_names = tuple("0123456789") if classes == 10 else tuple("abc")
    save_model(model, path)
    start = Start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "SMALL", (*runs.SHORT, "+trainer.enable_progress_bar=false"))  # sizes are the file's
        runs.train(f"output={tmp_path / 'run'}", f"model.name={path}", "explanations.every=null", watcher=start)
    assert start.bias == pytest.approx(math.log(1 / 9))
    kept = model.state_dict()
    assert start.state.keys() == kept.keys()
    changed = {name for name, tensor in kept.items() if not torch.equal(tensor, start.state[name])}
    assert changed == ({"head.classify.weight"} if classes == 3 else set())
    assert len(start.state["head.classify.weight"]) == 10
    learnt = create_model(tmp_path / "run/model.safetensors")
    assert learnt.spec == dataclasses.replace(model.spec, num_classes=10)
    assert learnt.class_names == tuple("0123456789")


def test_training_goes_on_from_a_file(tmp_path):
    model = toy("bcos_vit_digits", num_classes=10)
    save_model(model, tmp_path / "mine.safetensors")
    short = (*runs.SHORT, "explanations.every=null", "+trainer.enable_progress_bar=false")
    chosen = runs.config(*short, f"output={tmp_path / 'run'}", f"model.name={tmp_path / 'mine.safetensors'}")
    runs.run.train(chosen)
    assert create_model(tmp_path / "run/model.safetensors").spec == model.spec


def test_a_configuration_that_lacks_something_is_answered_by_a_sentence(tmp_path):
    chosen = runs.config(f"output={tmp_path / 'run'}")
    with open_dict(chosen):
        del chosen.logger
    with pytest.raises(OmegaConfBaseException), sentences(traceback=True):
        runs.run.train(chosen)
    with pytest.raises(SystemExit, match=r"^error: "), sentences(traceback=False):
        runs.run.train(chosen)


@pytest.mark.parametrize("tolerance", ["abc", "-1"])
def test_an_impossible_tolerance_is_found_before_the_first_picture(tmp_path, tolerance):
    with pytest.raises(ValueError, match=rf"tolerance must be a number of at least 0, or null, found .*{tolerance}"):
        runs.train(f"output={tmp_path / 'run'}", f"+explanations.tolerance={tolerance}")


@pytest.mark.slow
def test_a_multirun_keeps_the_command_of_each_of_its_runs(tmp_path):
    small = [*runs.SMALL, "explanations.every=null"]
    done = runs.command("-m", "seed=3,4", "output=out${seed}", *small, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    commands = [json.loads((tmp_path / f"out{seed}/card.json").read_text())["command"] for seed in (3, 4)]
    for seed, command in zip((3, 4), commands, strict=True):
        assert command.startswith("python train.py seed=" + str(seed))


def test_json_has_no_word_for_nan():
    text = as_json({"a": {"loss": float("nan"), "top1": 0.5}, "b": float("inf"), "n": torch.tensor(1.5).item()})
    assert json.loads(text) == {"a": {"loss": None, "top1": 0.5}, "b": None, "n": 1.5}


def test_images_of_another_size_than_expected_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"images are 8 x 8 pixels where 16 were expected: .* give image_size=8"):
        runs.train(f"output={tmp_path / 'run'}", "image_size=16")
    with pytest.raises(ValueError, match="images are 8 x 8 pixels where 16 were expected"):
        evaluate_as(runs.config(f"output={tmp_path / 'run'}", "image_size=16", name="evaluate"))
    assert not (tmp_path / "run").exists()
