"""Runs that start at once, and runs that go on in their own folder: nothing of either is lost."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lightning import Callback

import runs
from bcos_vit.claim import HeldError, claim_folder
from runs import SMALL

RUN = ("recipe.epochs=4", "explanations.every=null")
CUT = 10  # in the third epoch


@pytest.fixture
def cut(tmp_path):
    """A run that was cut short."""
    with pytest.raises(runs.Cut):
        runs.train(*RUN, f"output={tmp_path / 'run'}", watcher=runs.Recorder(cut=CUT))
    return tmp_path / "run"


def resume(folder, *words, **options):
    last = folder / "checkpoints/last.ckpt"
    return runs.train(*RUN, f"resume={last}", f"output={folder}", *words, **options)


class Best(Callback):
    """What the best checkpoint is when training starts."""

    def on_train_start(self, trainer, module):
        self.files = runs.files(Path(trainer.checkpoint_callback.dirpath))


def test_a_run_goes_on_in_its_own_folder_and_keeps_what_it_had(cut):
    rows, before, watcher = (cut / "log/metrics.csv").read_text().splitlines(), runs.files(cut), Best()
    (cut / "notes.txt").write_text("mine")
    assert resume(cut, watcher=watcher) is not None
    after = (cut / "log/metrics.csv").read_text().splitlines()
    assert after[: len(rows)] == rows
    assert [step for step, _ in runs.logged(cut)["val_loss"]] == [3, 7, 11, 15]
    assert all(watcher.files[name] == before[f"checkpoints/{name}"] for name in ("best.ckpt", "last.ckpt"))
    assert runs.files(cut / "before_resume").keys() == {"config.yaml", "notes.txt"}
    assert runs.files(cut)["before_resume/config.yaml"] == before["config.yaml"]
    assert {"config.yaml", "model.safetensors", "card.json", "report.json"} <= runs.files(cut).keys()


def test_what_cannot_be_gone_on_with_leaves_all_as_it_was(cut):
    before = runs.files(cut)
    with pytest.raises(ValueError, match=r"was made with recipe\.batch_size"):
        resume(cut, "recipe.batch_size=32")
    with pytest.raises(FileNotFoundError):
        runs.train(*RUN, f"resume={cut / 'checkpoints/none.ckpt'}", f"output={cut}")
    with claim_folder(cut), pytest.raises(HeldError):
        _in_a_thread(lambda: resume(cut))
    with pytest.raises(FileExistsError, match="already holds"):
        runs.train(*RUN, f"output={cut}")
    assert runs.files(cut) == before


def _in_a_thread(function):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(function).result()


def test_the_last_checkpoint_is_kept_where_a_run_goes_back_to_its_best(cut):
    last = cut / "checkpoints/last.ckpt"
    best = last.with_name("best.ckpt")
    before = runs.files(cut)
    assert runs.train(*RUN, f"resume={best}", f"output={cut}") is not None
    assert runs.files(cut)["before_resume/last.ckpt"] == before["checkpoints/last.ckpt"]
    assert last.is_file()


def test_half_a_row_of_a_killed_run_does_not_spoil_the_next(cut):
    file = cut / "log/metrics.csv"
    file.write_text(file.read_text().rstrip() + "\r\n1,2")
    resume(cut)
    rows = [line.split(",") for line in file.read_text().splitlines()]
    (half,) = (number for number, row in enumerate(rows) if len(row) != len(rows[0]))
    assert rows[half] == ["1", "2"]
    assert rows[half + 1 :]


@pytest.mark.slow
def test_runs_that_start_at_once_have_a_folder_each_and_are_complete(tmp_path):
    """As in ``for lr in 1e-3 5e-3; do python train.py recipe.classifier.optimizer.lr=$lr & done; wait``."""
    work = tmp_path / "work"
    work.mkdir()
    rates = (1e-3, 5e-3)
    started = [runs.start(*SMALL, f"recipe.classifier.optimizer.lr={rate}", folder=work) for rate in rates]
    said = [process.communicate(timeout=600) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    found = {}
    for folder in (work / "runs/bcos_vit_digits").iterdir():
        card, steps = json.loads((folder / "card.json").read_text()), runs.logged(folder)["val_loss"]
        assert [step for step, _ in steps] == [3, 7]
        weights = runs.files(folder)["model.safetensors"]
        assert card["sha256"] == weights
        recipe = runs.checkpoint(folder)["hyper_parameters"]["recipe"]
        found[recipe["recipe"]["classifier"]["optimizer"]["lr"]] = str(folder.relative_to(work))
    assert found.keys() == set(rates)
    for rate, (out, _) in zip(rates, said, strict=True):
        assert f"weights: {found[rate]}/model.safetensors" in out


@pytest.mark.slow
def test_of_two_runs_with_one_output_one_is_refused(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    one, two = (runs.start(*SMALL, f"seed={seed}", "output=run", folder=work) for seed in (0, 1))
    said = [process.communicate(timeout=600) for process in (one, two)]
    assert sorted(process.returncode for process in (one, two)) == [0, 1], said
    refused = said[one.returncode == 0][1].splitlines()[-1]
    assert refused.startswith(("error: run is in use by another process", "error: output folder run already holds"))
