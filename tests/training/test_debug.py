"""debug=batch, overfit, profile: short runs that answer one question each."""

import json
import math
import re

import pytest
import torch
from hydra.errors import MissingConfigException
from lightning import Callback
from PIL import Image

import runs
from bcos_vit import create_model
from bcos_vit.data import Digits
from bcos_vit.training import run as training
from runs import config

TINY = ("+model.depth=1", "+model.width=24", "+model.mlp_width=32", "+trainer.enable_progress_bar=false")


def train(output, *words, watcher=None):
    """A run of a tiny model with no other shortening than that of the debug mode."""
    original = training._callbacks
    with pytest.MonkeyPatch.context() as patch:
        if watcher is not None:
            patch.setattr(training, "_callbacks", lambda *given: [watcher, *original(*given)])
        return training.train(config(*TINY, f"output={output}", *words))


class Batches(Callback):
    """The images of every batch, by what it was for."""

    def __init__(self):
        self.train, self.val, self.test, self.rates = [], [], [], []

    def on_train_batch_start(self, trainer, module, batch, index):
        self.train.append(batch[0].clone())
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_validation_batch_start(self, trainer, module, batch, index, loader=0):
        self.val.append(len(batch[0]))

    def on_test_batch_start(self, trainer, module, batch, index, loader=0):
        self.test.append(len(batch[0]))


# --- batch ---


@pytest.mark.parametrize("model", ["bcos_vit_digits", "standard_vit_digits"])
def test_one_batch_goes_through_everything_that_a_run_does(tmp_path, model):
    seen, output = Batches(), tmp_path / "run"
    report = train(output, "debug=batch", f"model={model}", watcher=seen)
    assert [len(images) for images in seen.train] == seen.val == seen.test == [64]
    assert report.images == 64
    written = {"card.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "config.yaml", "log/hparams.yaml"}
    written |= {"log/metrics.csv", "model.safetensors", "report.json"}
    pictures = {"gallery.png", "explanations/epoch_0001.png"} if model.startswith("bcos") else set()
    assert set(runs.files(output)) == written | pictures
    found = runs.logged(output)
    assert {"train_loss", "val_loss", "val_accuracy", "gradient_norm", "images_per_second"} <= found.keys()
    assert len(found["train_loss"]) == 1
    assert create_model(output / "model.safetensors").spec.depth == 1
    for picture in pictures:
        with Image.open(output / picture) as image:
            low, high = image.convert("L").getextrema()
            assert high - low > 100


def test_a_batch_in_turns_is_one_turn(tmp_path):
    seen = Batches()
    train(tmp_path / "run", "debug=batch", "data.batch_size=16", "explanations.every=null", watcher=seen)
    assert [len(images) for images in seen.train] == seen.val == seen.test == [16]
    assert runs.checkpoint(tmp_path / "run")["global_step"] == 1


@pytest.mark.parametrize("experiment", ["imagenet/bcos_vitc_ti_patch1_14", "cifar10/standard_simple_vit_ti"])
def test_it_stands_above_an_experiment(experiment):
    chosen = config(f"experiment={experiment}", "debug=batch")
    assert (chosen.recipe.epochs, chosen.recipe.classifier.schedule, chosen.trainer.max_epochs) == (1, None, 1)
    assert chosen.trainer.limit_train_batches == 1


# --- overfit ---


def entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def in_one_order(images):
    return images[sorted(range(len(images)), key=lambda number: images[number].flatten().tolist())]


@pytest.mark.parametrize(
    ("model", "least", "margin"),
    [("bcos_vit_digits", 0.9 * entropy(0.1), 0.02), ("standard_vit_digits", 0.0, 0.05)],
)
def test_one_batch_is_learnt_by_heart(tmp_path, model, least, margin):
    """For B-cos a label of one is certain, the nine others are clamped to a tenth."""
    seen, output = Batches(), tmp_path / "run"
    words = ("debug=overfit", f"model={model}", "data.batch_size=16", "recipe.classifier.optimizer.lr=3e-3")
    train(output, *words, watcher=seen)
    assert len(seen.train) == 100
    part = Digits("train").images
    spread = in_one_order(part[[number * len(part) // 16 for number in range(16)]])
    for images in seen.train:  # one batch, without augmentation
        assert torch.equal(in_one_order(images), spread)
    assert set(seen.rates) == {3e-3}  # no schedule
    losses = [loss for _, loss in runs.logged(output)["train_loss"]]
    assert len(losses) == 100
    assert losses[0] > least + 5 * margin
    assert least <= losses[-1] <= least + margin
    assert "explanations" not in {p.name for p in output.iterdir()}


def test_a_batch_to_overfit_is_not_mixed():
    chosen = config("debug=overfit", "data=imagenet")
    assert chosen.data.mix is None
    assert chosen.data.train_transform == chosen.data.eval_transform
    assert chosen.recipe.batch_size == chosen.data.train_images == chosen.data.batch_size == 128


# --- profile ---


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """The folder of a run, and what was seen of it."""
    output, seen = tmp_path_factory.mktemp("profiled") / "run", Batches()
    train(output, "debug=profile", watcher=seen)
    return output, seen


@pytest.mark.slow
def test_ten_batches_are_profiled(profiled):
    output, seen = profiled
    assert len(seen.train) == 10
    assert len(seen.val) == len(seen.test) == 1
    assert {p.name for p in output.iterdir()} >= {"profile", "log", "model.safetensors", "report.json"}


@pytest.mark.slow
def test_the_table_names_the_costliest_operations_of_training(profiled):
    (table,) = (profiled[0] / "profile").glob("fit-costs*.txt")
    lines = table.read_text().splitlines()
    header = next(line for line in lines if "# of Calls" in line)
    assert "CPU total" in header
    rows = {row[0]: int(row[-1]) for line in lines if (row := re.split(r"\s{2,}", line.strip()))[-1].isdigit()}
    assert {"BcosLearning", "BcosLearningBackward", "aten::mm"} <= rows.keys()  # forward and backward
    (updates,) = (count for name, count in rows.items() if name.startswith("Optimizer.step"))
    assert 8 <= updates <= 10  # of ten steps, the first may warm up
    assert rows["BcosLearning"] >= 5 * updates  # every one of its layers


@pytest.mark.slow
def test_traces_can_be_opened(profiled):
    (trace,) = (profiled[0] / "profile").glob("fit-costs*training_step*.json*")
    names = [event.get("name") for event in json.loads(trace.read_text())["traceEvents"]]
    assert {"BcosLearning", "aten::mm"} <= set(names)
    assert any(name and name.startswith("Optimizer.step") for name in names)


# --- all of them ---


@pytest.mark.parametrize("mode", ["batch", "overfit", "profile"])
def test_errors_are_shown_with_their_place(mode):
    assert config(f"debug={mode}").traceback is True
    assert config().traceback is False


def test_an_unknown_mode_is_answered_with_those_there_are():
    with pytest.raises(MissingConfigException) as caught:
        config("debug=bach")
    assert "debug/bach" in str(caught.value)
    assert all(mode in str(caught.value) for mode in ("batch", "overfit", "profile"))


@pytest.mark.slow
def test_a_debugged_run_that_fails_shows_where(tmp_path):
    done = runs.command("debug=batch", "model.name=bcos_vit_digit", "output=run", folder=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "no model is named 'bcos_vit_digit', did you mean" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_several_runs_of_one_command_lie_in_folders_of_their_own(tmp_path):
    rate = "recipe.classifier.optimizer.lr"
    done = runs.command("-m", f"{rate}=1e-3,2e-3", "seed=0,1", "debug=batch", *TINY, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    outputs = list((tmp_path / "runs/bcos_vit_digits").iterdir())
    assert len(outputs) == 4
    found = set()
    for output in outputs:
        recipe = runs.checkpoint(output)["hyper_parameters"]["recipe"]
        assert output.name.endswith(f"_seed{recipe['seed']}")
        assert recipe["output"] == str(output.relative_to(tmp_path))
        found.add((recipe["recipe"]["classifier"]["optimizer"]["lr"], recipe["seed"]))
        assert (output / "report.json").is_file()
    assert found == {(1e-3, 0), (1e-3, 1), (2e-3, 0), (2e-3, 1)}
