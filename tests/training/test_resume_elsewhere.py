"""A run goes on with another share of a step at once, or on other devices: same step, same rates, same weights."""

import os
import subprocess
import sys

import pytest
import torch

import runs

COUNTS = {"train/a": 20, "train/b": 17, "val/a": 2, "val/b": 2, "test/a": 2, "test/b": 2}
BATCH, STEPS = 16, 3  # of an epoch
RUN = ("data=folder", "data.num_workers=0", "data.train_transform=${data.eval_transform}", "trainer.precision=64-true")
RUN += ("trainer.limit_train_batches=1.0", f"recipe.batch_size={BATCH}", "recipe.epochs=4", "explanations.every=null")


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A run in two turns a step, and the same cut short in its third epoch, with what was seen of them."""
    folder = tmp_path_factory.mktemp("runs")
    root = runs.write_photos(folder / "photos", COUNTS, size=8)
    words = (*RUN, f"data.root={root}", "data.batch_size=8", "ema=0.9")
    whole, seen = runs.Recorder(), runs.Recorder(cut=2 * STEPS + 1)
    runs.train(*words, f"output={folder / 'whole'}", watcher=whole)
    with pytest.raises(runs.Cut):
        runs.train(*words, f"output={folder / 'cut'}", watcher=seen)
    return folder, whole


def of_steps(recorder):
    """Step -> its rate."""
    found = dict(zip((step for _, step in recorder.places), recorder.rates, strict=True))
    assert len(set(zip((step for _, step in recorder.places), recorder.rates, strict=True))) == len(found)
    return found


@pytest.mark.parametrize("at_once", [16, 8, 3])
def test_with_another_number_of_turns_it_goes_on_at_the_same_step_and_rate(cut, tmp_path, at_once):
    folder, whole = cut
    last, again = folder / "cut/checkpoints/last.ckpt", runs.Recorder()
    words = (*RUN, f"data.root={folder / 'photos'}", f"data.batch_size={at_once}", "ema=0.9", f"resume={last}")
    runs.train(*words, f"output={tmp_path / 'again'}", watcher=again)
    rates = of_steps(whole)
    assert list(rates) == list(range(4 * STEPS))
    assert of_steps(again) == {step: rate for step, rate in rates.items() if step >= 2 * STEPS}
    assert again.places[0] == (2, 2 * STEPS)
    content = runs.checkpoint(tmp_path / "again")
    assert (content["epoch"], content["global_step"]) == (3, 4 * STEPS)
    assert content["averaging_state"]["n_averaged"] == 4 * STEPS
    assert content["lr_schedulers"][0]["last_epoch"] == 4 * STEPS


def test_what_is_learnt_after_that_does_not_depend_on_the_turns(cut, tmp_path):
    folder, found = cut[0], {}
    for at_once in (16, 4):
        last = folder / "cut/checkpoints/last.ckpt"
        words = (*RUN, f"data.root={folder / 'photos'}", f"data.batch_size={at_once}", "ema=0.9", f"resume={last}")
        runs.train(*words, f"output={tmp_path / str(at_once)}")
        found[at_once] = runs.checkpoint(tmp_path / str(at_once))["current_model_state"]
    before = runs.checkpoint(folder / "cut")["current_model_state"]
    for name, weights in found[16].items():
        torch.testing.assert_close(found[4][name], weights, rtol=0, atol=1e-10)
    assert not runs.equal(found[16], before)


def test_a_run_can_be_finished_where_nothing_is_left_to_do(cut, tmp_path):
    folder = cut[0]
    last, again = folder / "whole/checkpoints/last.ckpt", runs.Recorder()
    words = (*RUN, f"data.root={folder / 'photos'}", "data.batch_size=16", "ema=0.9", f"resume={last}")
    runs.train(*words, f"output={tmp_path / 'again'}", watcher=again)
    assert not again.places


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_on_other_devices_it_goes_on_at_the_same_step_and_rate(tmp_path, first, then):
    """Every step sees all photos, so that neither the order nor who saw which matters to the weights."""
    root = runs.write_photos(tmp_path / "photos", COUNTS | {"train/b": 16}, size=8)
    words = (*RUN, f"data.root={root}", "recipe.batch_size=36", "recipe.epochs=6", "data.batch_size=36")
    words += ("trainer.log_every_n_steps=1", "+trainer.strategy=ddp")
    whole = runs.Recorder()
    runs.train(*words[:-1], f"output={tmp_path / 'whole'}", watcher=whole)

    (tmp_path / "cut.py").write_text(CUT)
    done = subprocess.run(
        [sys.executable, "cut.py", *words, f"trainer.devices={first}", "output=cut"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{runs.ROOT / 'tests'}:{runs.ROOT}"},
    )
    assert done.stdout.count("cut short") == first, done.stderr
    assert runs.checkpoint(tmp_path / "cut")["global_step"] == 4

    last = tmp_path / "cut/checkpoints/last.ckpt"
    chosen = (*runs.SMALL, *words, f"trainer.devices={then}", "output=again", f"resume={last}")
    done = runs.command(*chosen, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rates = runs.logged(tmp_path / "again")["lr-Adam"]
    assert [step for step, _ in rates] == [4, 5]
    assert [rate for _, rate in rates] == pytest.approx(whole.rates[4:], rel=1e-12)
    assert runs.checkpoint(tmp_path / "again")["global_step"] == 6
    expected = runs.checkpoint(tmp_path / "whole")["state_dict"]
    for name, weights in runs.checkpoint(tmp_path / "again")["state_dict"].items():
        # weights are rounded to float32 on loading, since they are loaded before the precision is set
        torch.testing.assert_close(weights, expected[name], rtol=0, atol=1e-7)


CUT = """
import sys

import runs

try:
    runs.train(*sys.argv[1:], watcher=runs.Recorder(cut=4))
except runs.Cut:
    print("cut short", flush=True)
"""
