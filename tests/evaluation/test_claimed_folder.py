"""The folder of a run: new, named by the model, and nobody else's as long as the run lasts."""

import os
import threading
from datetime import datetime
from types import SimpleNamespace

import pytest
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

import runs
from bcos_vit.claim import HeldError, claim_folder
from bcos_vit.evaluation import folder as folders
from bcos_vit.evaluation.folder import FOLDER, claimed_folder, own_folder
from locks import files_only

NOW = datetime(2026, 1, 2, 3, 4, 5)
NAME = "runs/bcos_vit_digits/2026-01-02_03-04-05_seed3"


@pytest.fixture(autouse=True)
def _work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "datetime", SimpleNamespace(now=lambda: NOW))


def config(output=None, model="bcos_vit_digits"):
    return OmegaConf.create({"output": output, "model": {"name": model}, "seed": 3, "log": "${output}/log"})


def tree(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


def trainer(step):
    return SimpleNamespace(strategy=SimpleNamespace(launcher=None), is_global_zero=True, global_step=step)


def test_runs_of_one_second_get_a_folder_each(tmp_path):
    one, two = config(), config()
    with claimed_folder(one, "runs") as first, claimed_folder(two, "runs") as second:
        assert str(first) == NAME
        assert str(second) == f"{first}-2"
        assert (one.output, one.log) == (str(first), f"{first}/log")
    with claimed_folder(config(), "runs") as third:  # what has ended keeps its name
        assert str(third) == f"{first}-3"


def test_many_threads_get_a_folder_each():
    found, start = [], threading.Barrier(8)

    def run():
        start.wait()
        with claimed_folder(config(), "runs") as folder:
            found.append(folder)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 8


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("runs/A/model.safetensors", "A"),
        ("../x/runs/A/model.safetensors", "A"),
        ("runs/A/checkpoints/best.ckpt", "A"),
        ("runs/A/checkpoints/last.ckpt", "A"),
        ("runs/A", "A"),
        ("~/A/model.safetensors", "A"),
        ("/", "model"),
        ("/somewhere/else/mine.pth", "mine"),
        ("bcos_vit_1-1.5.pt", "bcos_vit_1-1.5"),
        ("my models (2)/猫 Kätzchen.ckpt", "猫-Kätzchen"),
        (".hidden.safetensors", "hidden"),
        ("x" * 300 + ".ckpt", "x" * 80),
    ],
)
def test_a_run_is_named_by_the_model_not_by_its_path(model, name):
    with claimed_folder(config(model=model), "runs") as folder:
        assert folder.parts[:-1] == ("runs", name)


def test_a_given_folder_is_held_while_the_run_lasts(tmp_path):
    with claimed_folder(config("out"), "runs") as folder:
        assert str(folder) == "out"
        for other in ("out", "./out/", str(tmp_path / "out")):
            with pytest.raises(HeldError, match="out is in use by another process"):
                in_a_thread(other)
        (folder / "report.json").touch()
    with pytest.raises(FileExistsError, match=r"output folder out already holds report\.json: give an empty"):
        claimed_folder(config("out"), "runs").__enter__()


def in_a_thread(output, resume=None):
    raised = []

    def run():
        try:
            with claimed_folder(config(output), "runs", resume=resume):
                pass
        except OSError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in raised:
        raise error


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with claimed_folder(config("~/out"), "runs") as folder:
        assert folder == tmp_path / "home/out"
        assert folder.is_dir()


def test_a_run_that_is_gone_on_with_may_enter_its_folder_if_nobody_holds_it(tmp_path):
    checkpoint = tmp_path / "out/checkpoints/last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    for resume in (str(checkpoint), "out/checkpoints/last.ckpt"):
        with claimed_folder(config("out"), "runs", resume=resume), pytest.raises(HeldError):
            in_a_thread("out", resume)
    with pytest.raises(FileExistsError):
        in_a_thread("out", str(tmp_path / "elsewhere/last.ckpt"))


def fail(end, output, step, resume=None):
    """A run that ends after so many steps."""

    def run():
        with claimed_folder(config(output), "runs", resume=resume) as folder, own_folder(folder, trainer(step)):
            (folder / "log").mkdir()
            (folder / "config.yaml").touch()
            raise end

    with pytest.raises(end):
        run()


@pytest.mark.parametrize("only_files", [False, True])
@pytest.mark.parametrize("end", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_run_that_learnt_nothing_leaves_nothing(tmp_path, monkeypatch, end, only_files):
    if only_files:
        files_only(monkeypatch)
    fail(end, "a/b", step=0)
    assert tree(tmp_path) == []


def test_a_run_that_learnt_something_keeps_it(tmp_path):
    fail(KeyboardInterrupt, "out", step=1)
    assert tree(tmp_path) == ["out", "out/config.yaml", "out/log"]


def test_a_resumed_run_that_fails_at_once_removes_nothing(tmp_path):
    (tmp_path / "out/checkpoints").mkdir(parents=True)
    (tmp_path / "out/checkpoints/last.ckpt").touch()
    before = tree(tmp_path)
    fail(ValueError, "out", step=0, resume="out/checkpoints/last.ckpt")
    assert set(before) < set(tree(tmp_path))


def test_other_processes_of_a_run_learn_its_folder_and_claim_nothing(tmp_path, monkeypatch):
    with claimed_folder(config(), "runs") as folder:
        inherited = os.environ[FOLDER]
    assert FOLDER not in os.environ  # the next run of a multirun is another one
    monkeypatch.setenv(FOLDER, inherited)
    before = tree(tmp_path)
    with claim_folder(folder):
        for variables in ({"rank": 1}, {"machine": "1"}):
            with monkeypatch.context() as patch:
                patch.setattr(rank_zero_only, "rank", variables.get("rank", 0))
                patch.setenv("NODE_RANK", variables.get("machine", "0"))
                chosen = config()
                with claimed_folder(chosen, "runs") as same:
                    assert (same, chosen.output) == (folder, str(folder))
    assert tree(tmp_path) == before


def test_the_first_process_believes_no_variable_of_another_run(monkeypatch):
    monkeypatch.setenv(FOLDER, "elsewhere")
    with claimed_folder(config(), "runs") as folder:
        assert str(folder) == NAME
        assert os.environ[FOLDER] == str(folder)
    assert os.environ[FOLDER] == "elsewhere"


def test_a_name_with_the_signs_of_an_interpolation_is_kept(monkeypatch):
    chosen, others = config(r"runs/\${seed}"), config()
    with claimed_folder(chosen, "runs") as folder:
        assert str(folder) == chosen.output == "runs/${seed}"
        assert chosen.log == "runs/${seed}/log"
        monkeypatch.setattr(rank_zero_only, "rank", 1)
        with claimed_folder(others, "runs") as same:
            assert str(same) == others.output == "runs/${seed}"


@pytest.mark.parametrize("model", ["../runs/A/model.safetensors", "runs/A/checkpoints/best.ckpt"])
def test_a_run_of_weights_and_biases_is_named_by_the_model_too(model):
    assert runs.config("logger=wandb", f"model.name={model}").logger.name == "A seed 0"


@pytest.mark.parametrize("output", [".", "out/checkpoints", "elsewhere"])
def test_only_a_runs_own_folder_is_gone_on_in(tmp_path, output):
    for place in ("out/checkpoints/last.ckpt", "elsewhere/deep/last.ckpt", "notes.txt"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    before = sorted(tmp_path.rglob("*"))
    resume = "elsewhere/deep/last.ckpt" if output == "elsewhere" else "out/checkpoints/last.ckpt"
    with pytest.raises(FileExistsError, match=r"is gone on with by resume=FOLDER/checkpoints/last\.ckpt"):
        claimed_folder(config(output), "runs", resume=resume).__enter__()
    assert sorted(tmp_path.rglob("*")) == before
