"""resume=.../last.ckpt: a run that was cut short goes on as if it had not been, in a folder of its own."""

import signal
import time
from types import SimpleNamespace

import pytest
import torch

import runs
from bcos_vit import create_model
from bcos_vit.data import DataModule
from runs import SMALL

RUN = ("recipe.epochs=4", "explanations.every=null")
STEPS, CUT, KEPT = 16, 10, 8  # of a whole run; before which it is cut; which the last checkpoint has seen


@pytest.fixture(scope="module", params=["null", "0.9"], ids=["plain", "averaged"])
def resumed(request, tmp_path_factory):
    """One run as a whole, the same cut in its third epoch, and gone on with; images come in one order in every epoch.

    Else a resumed run takes them in another order than the whole one: random states are not kept.
    """
    folder, ema = tmp_path_factory.mktemp("runs"), f"ema={request.param}"
    whole, cut, again = runs.Recorder(), runs.Recorder(cut=CUT), Resumed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataModule, "train_dataloader", lambda self: self.evaluation_loader("train"))
        complete = runs.train(*RUN, ema, f"output={folder / 'whole'}", watcher=whole)
        with pytest.raises(runs.Cut):
            runs.train(*RUN, ema, f"output={folder / 'cut'}", watcher=cut)
        before = runs.files(folder / "cut")
        last = folder / "cut/checkpoints/last.ckpt"
        report = runs.train(*RUN, ema, f"output={folder / 'again'}", f"resume={last}", watcher=again)
    return SimpleNamespace(
        **{"folder": folder, "averaged": ema != "ema=null", "before": before},
        **{"whole": whole, "cut": cut, "again": again, "reports": (complete, report)},
    )


class Resumed(runs.Recorder):
    """Keeps also what training starts with."""

    def on_train_start(self, trainer, module):
        self.model = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        self.optimizer = trainer.optimizers[0].state_dict()["state"]
        self.optimizer = {i: {n: t.clone() for n, t in state.items()} for i, state in self.optimizer.items()}
        self.scheduler = trainer.lr_scheduler_configs[0].scheduler.state_dict()["last_epoch"]


def test_the_cut_run_keeps_what_it_has_and_no_report(resumed):
    assert [step for _, step in resumed.cut.places] == list(range(CUT))
    assert set(resumed.before) >= {"checkpoints/last.ckpt", "checkpoints/best.ckpt", "config.yaml"}
    assert not {"report.json", "model.safetensors", "card.json"} & set(resumed.before)
    content = runs.checkpoint(resumed.folder / "cut")
    assert (content["epoch"], content["global_step"]) == (1, KEPT)


def test_goes_on_at_the_right_epoch_and_step_to_the_end(resumed):
    assert resumed.again.places == [(step // 4, step) for step in range(KEPT, STEPS)]
    content = runs.checkpoint(resumed.folder / "again")
    assert (content["epoch"], content["global_step"]) == (3, STEPS)
    assert [step for step, _ in runs.logged(resumed.folder / "again")["val_loss"]] == [11, 15]


def test_learning_rates_are_those_of_the_whole_run(resumed):
    assert resumed.cut.rates[:KEPT] + resumed.again.rates == resumed.whole.rates
    assert len(set(resumed.whole.rates)) == STEPS


def test_weights_and_optimiser_are_continued(resumed):
    content = runs.checkpoint(resumed.folder / "cut")
    weights = content["current_model_state" if resumed.averaged else "state_dict"]
    assert runs.equal(resumed.again.model, weights)
    assert runs.equal(resumed.cut.weights[KEPT - 1], {n.removeprefix("model."): t for n, t in weights.items()})
    kept = content["optimizer_states"][0]["state"]
    assert len(kept) == len(weights)
    assert all(runs.equal(resumed.again.optimizer[number], kept[number]) for number in kept)
    assert {float(state["step"]) for state in kept.values()} == {KEPT}
    assert resumed.again.scheduler == KEPT


@pytest.mark.parametrize("resumed", ["0.9"], indirect=True, ids=["averaged"])
def test_the_average_is_continued(resumed):
    start, end = (runs.checkpoint(resumed.folder / name) for name in ("cut", "again"))
    assert start["averaging_state"]["n_averaged"] == KEPT
    assert end["averaging_state"]["n_averaged"] == STEPS
    for name, tensor in start["state_dict"].items():
        average = tensor.double()
        for weights in resumed.again.weights:
            average = 0.9 * average + 0.1 * weights[name.removeprefix("model.")].double()
        torch.testing.assert_close(end["state_dict"][name], average.float(), rtol=0, atol=1e-6)


def test_ends_bitwise_where_the_whole_run_ends(resumed):
    for one, other in zip(resumed.whole.weights[KEPT:], resumed.again.weights, strict=True):
        assert runs.equal(one, other)
    whole, again = (create_model(resumed.folder / f"{n}/model.safetensors").state_dict() for n in ("whole", "again"))
    assert runs.equal(whole, again)
    assert resumed.reports[0].numbers() == resumed.reports[1].numbers()


def test_ends_with_all_that_a_run_ends_with(resumed):
    whole, again = (set(runs.files(resumed.folder / name)) for name in ("whole", "again"))
    assert again == whole


def test_the_old_folder_is_left_as_it_was(resumed):
    assert runs.files(resumed.folder / "cut") == resumed.before


def test_a_finished_run_can_be_resumed_and_changes_nothing(resumed, tmp_path):
    ema = "ema=0.9" if resumed.averaged else "ema=null"
    checkpoint = resumed.folder / "whole/checkpoints/last.ckpt"
    recorder = runs.Recorder()
    runs.train(*RUN, ema, f"output={tmp_path / 'more'}", f"resume={checkpoint}", watcher=recorder)
    assert not recorder.places
    states = [create_model(f / "model.safetensors").state_dict() for f in (resumed.folder / "whole", tmp_path / "more")]
    assert runs.equal(*states)


# --- the best so far ---


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """Cuts a run whose validation finds 0.5 and then 0.9, and resumes it with what is found from then on."""

    def resume(*accuracies, start="last"):
        runs.prescribe(monkeypatch, 0.5, 0.9, 0.7, 0.0)
        with pytest.raises(runs.Cut):
            runs.train(*RUN, f"output={tmp_path / 'cut'}", watcher=runs.Recorder(cut=14))
        runs.prescribe(monkeypatch, 0.5, 0.9, *accuracies)
        checkpoint = tmp_path / f"cut/checkpoints/{start}.ckpt"
        runs.train(*RUN, f"output={tmp_path / 'again'}", f"resume={checkpoint}")
        return runs.checkpoint(tmp_path / "again", "best"), create_model(tmp_path / "again/model.safetensors")

    return resume


def test_the_best_checkpoint_is_carried_over_if_nothing_better_comes(tmp_path, scored):
    best, model = scored(0.7, 0.8)
    assert (best["epoch"], best["global_step"]) == (1, 8)
    old, new = (tmp_path / f"{name}/checkpoints/best.ckpt" for name in ("cut", "again"))
    assert new.read_bytes() == old.read_bytes()
    assert runs.equal(model.state_dict(), {n.removeprefix("model."): t for n, t in best["state_dict"].items()})
    assert runs.checkpoint(tmp_path / "again")["epoch"] == 3


@pytest.mark.parametrize("accuracy", [0.9, 0.95])
def test_and_replaced_if_something_as_good_or_better_comes(tmp_path, scored, accuracy):
    best, _ = scored(0.7, accuracy)
    assert (best["epoch"], best["global_step"]) == (3, 16)
    assert runs.checkpoint(tmp_path / "cut", "best")["epoch"] == 1


def test_the_best_checkpoint_itself_can_be_gone_on_with(tmp_path, scored):
    best, _ = scored(0.7, 0.8, start="best")
    assert (best["epoch"], best["global_step"]) == (1, 8)
    assert [step for step, _ in runs.logged(tmp_path / "again")["train_loss"]] == [11, 15]


def test_a_best_checkpoint_that_is_gone_is_missed_in_a_warning(tmp_path):
    with pytest.raises(runs.Cut):
        runs.train(*RUN, f"output={tmp_path / 'cut'}", watcher=runs.Recorder(cut=14))
    (tmp_path / "cut/checkpoints/best.ckpt").unlink()
    checkpoint = tmp_path / "cut/checkpoints/last.ckpt"
    with pytest.warns(UserWarning, match=r"best\.ckpt, is gone: the best is chosen among the epochs to come"):
        runs.train(*RUN, f"output={tmp_path / 'again'}", f"resume={checkpoint}")
    assert runs.checkpoint(tmp_path / "again", "best")["epoch"] == 3


def test_a_run_whose_first_validation_was_yet_to_come_is_resumed_without_a_warning(tmp_path, recwarn):
    rarely = (*RUN, "+trainer.check_val_every_n_epoch=4")
    with pytest.raises(runs.Cut):
        runs.train(*rarely, f"output={tmp_path / 'cut'}", watcher=runs.Recorder(cut=14))
    checkpoint = tmp_path / "cut/checkpoints/last.ckpt"
    runs.train(*rarely, f"output={tmp_path / 'again'}", f"resume={checkpoint}")
    assert not [w for w in recwarn if "gone" in str(w.message) or "dirpath" in str(w.message)]
    assert runs.checkpoint(tmp_path / "again", "best")["epoch"] == 3


# --- for real ---


@pytest.mark.slow
def test_a_killed_process_is_gone_on_with(tmp_path):
    arguments = (*SMALL, "recipe.epochs=60", "explanations.every=null", "trainer.log_every_n_steps=1")
    last = tmp_path / "killed/checkpoints/last.ckpt"
    process = runs.start(*arguments, "output=killed", folder=tmp_path)
    try:
        deadline = time.monotonic() + 300
        while not (last.is_file() and runs.checkpoint(tmp_path / "killed")["epoch"] >= 3):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed/report.json").exists()
    kept = runs.checkpoint(tmp_path / "killed")
    before = runs.files(tmp_path / "killed")
    done = runs.command(*arguments, "output=again", f"resume={last}", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rates = runs.logged(tmp_path / "again")["lr-Adam"]
    assert [step for step, _ in rates] == list(range(kept["global_step"], 240))
    assert rates[0][1] == kept["optimizer_states"][0]["param_groups"][0]["lr"]
    assert create_model(tmp_path / "again/model.safetensors").class_names is not None
    assert runs.files(tmp_path / "killed") == before
