"""A word that Hydra does not take is answered in one sentence with the nearest name."""

import os
import subprocess
import sys

import pytest
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

import runs
from bcos_vit.config import FULL_ERROR, run_command, sentences
from bcos_vit.config_errors import sentence_about

LR = "recipe.classifier.optimizer.lr"


def answer(*words, name="train"):
    with pytest.raises(HydraException) as caught:
        runs.config(*words, name=name)
    return sentence_about(caught.value, runs.CONFIGS, name, words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["recipe.epoch=1"], "there is no 'recipe.epoch' in the configuration, did you mean recipe.epochs?"),
        (["lr=1e-3"], f"there is no 'lr' in the configuration, did you mean {LR}?"),
        (["lr=1e-3", "experiment=finetune"], f"there is no 'lr' in the configuration, did you mean {LR}?"),
        (["root=photos", "data=folder"], "there is no 'root' in the configuration, did you mean data.root?"),
        (["root=photos"], "did you mean data.root, with data=cifar10 or data=folder or data=imagenet?"),
        (["data.rot=photos", "data=folder"], "there is no 'data.rot' in the configuration, did you mean data.root?"),
        (["trainer.max_epoch=1"], "did you mean trainer.max_epochs?"),
        (["batchsize=1"], "did you mean data.batch_size or recipe.batch_size?"),
        (["optimizer.lr=1"], f"did you mean {LR}?"),
        (["callbacks.early_stoping.patience=1", "callbacks=early_stopping"], "did you mean callbacks.early_stopping."),
        (["model.width=24"], "nor a name near it: a new one is added as +model.width=..."),
        (["recipe.epochs.x=1"], "recipe.epochs is a value, recipe.epochs=..."),
        (["qqq=1"], "there is no 'qqq' in the configuration; valid are: data, ema, "),
        (["+recipe.epochs=3"], "recipe.epochs is there already: leave the + in front of it out"),
        (["lr=1", "root=2"], f"there is no 'lr' in the configuration, did you mean {LR}?"),
        (["trainer=gpu"], "there is no trainer/gpu, did you mean gpus? trainer can be: default, evaluation, gpus"),
        (
            ["experiment=imagent/bcos_vitc_s"],
            "did you mean imagenet/bcos_vitc_s_patch1_14? experiment can be: imagenet",
        ),
        (["callbacks=[early]"], "there is no callbacks/early, did you mean early_stopping? callbacks can be: early"),
        (["model=bcos_vitc_s_patch1_14"], "a model of the zoo or a file is chosen by its name, model.name=..."),
        (["data=photos"], "photos of your own are chosen by data=folder data.root=..."),
        (["~nothing"], "Could not delete from config. 'nothing' does not exist."),
        (["seed"], "'seed' cannot be read as name=value: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_unknown_words_of_train(words, expected):
    said = answer(*words)
    assert expected in said
    assert "\n" not in said
    assert "hydra" not in said.lower()


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (
            "metrics=[acc]",
            "there is no metrics/acc, did you mean accuracy? metrics can be: accuracy, completeness, lattice, speed",
        ),
        ("splt=val", "there is no 'splt' in the configuration, did you mean split?"),
    ],
)
def test_unknown_words_of_evaluate(word, expected):
    assert answer(word, name="evaluate") == expected


def main_that(error):
    """Like a function of hydra.main that raises ``error`` before what it calls is entered."""

    def main():
        raise error

    return main


def test_an_error_before_the_start_ends_the_program_and_the_variable_is_as_before(monkeypatch):
    monkeypatch.delenv(FULL_ERROR, raising=False)
    monkeypatch.setattr(sys, "argv", ["train.py", "lr=1"])
    with pytest.raises(HydraException) as caught:
        runs.config("lr=1")
    with pytest.raises(SystemExit, match=f"^error: there is no 'lr' .*{LR}"):
        run_command(main_that(caught.value), runs.CONFIGS, "train")
    assert FULL_ERROR not in os.environ
    monkeypatch.setenv(FULL_ERROR, "1")  # who asks for Hydra's own words gets them
    with pytest.raises(HydraException):
        run_command(main_that(caught.value), runs.CONFIGS, "train")


def test_an_error_of_the_run_itself_is_not_taken_for_one_of_the_words(monkeypatch):
    monkeypatch.delenv(FULL_ERROR, raising=False)

    def run_job():  # the name in Hydra of what calls us
        raise ValueError("of the run")

    with pytest.raises(ValueError, match="of the run"):
        run_command(run_job, runs.CONFIGS, "train")


def test_a_reference_to_nothing_is_named(tmp_path):
    chosen = runs.config("recipe.epochs=${nothing}", f"output={tmp_path}")
    with pytest.raises(SystemExit, match=r"^error: Interpolation key 'nothing' not found.*$") as end, sentences(False):
        runs.run.train(chosen)
    assert "\n" not in end.value.code
    with pytest.raises(OmegaConfBaseException), sentences(True):
        runs.run.train(chosen)


@pytest.mark.slow
@pytest.mark.parametrize("words", [["-m", "lr=1e-3,2e-3"], ["logger=[csv,wandb]"]])
def test_the_command_answers_without_hydras_own_lines(tmp_path, words):
    done = subprocess.run(
        [sys.executable, str(runs.ROOT / "train.py"), *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    (line,) = done.stderr.splitlines()
    assert (done.returncode, line[:7]) == (1, "error: ")
    assert ("would keep only the last" if "logger" in words[0] else f"did you mean {LR}?") in line
    assert not [file for file in runs.files(tmp_path) if file != "runs/multirun.yaml"]  # Hydra's


def test_signs_that_cannot_be_shown_are_no_reason_to_stop(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(runs.ROOT)!r}); from bcos_vit.config import run_command; "
        "run_command(lambda: print('\u2022 \u732b'), None, 'train')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"\\u2022 \\u732b\n"), done.stderr
