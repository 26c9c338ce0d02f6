"""The trainer and the variables of SLURM: what does not fit is named, with what to do."""

import pytest
from lightning.pytorch.loggers import CSVLogger

from bcos_vit.evaluation.trainer import build_trainer
from runs import config

FITTING = {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in ("SLURM_JOB_NAME", "SLURM_NNODES", "SLURM_NTASKS_PER_NODE", "TORCHELASTIC_RUN_ID", *FITTING):
        monkeypatch.delenv(name, raising=False)


def built(tmp_path, *words, name="train"):
    chosen = config(f"output={tmp_path}", "trainer.accelerator=cpu", *words, name=name)
    loggers = [CSVLogger(tmp_path)] if name == "train" else []
    return build_trainer(chosen.trainer, callbacks=[], loggers=loggers)


@pytest.mark.parametrize("name", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("variables", "words", "sentence"),
    [
        ({"SLURM_NTASKS": "4"}, (), "SLURM_NTASKS=4, .* but not SLURM_NTASKS_PER_NODE"),
        ({"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"}, (), "SLURM_NTASKS=4, .*where the trainer has 1 device"),
        ({}, ("trainer.devices=2", "+trainer.strategy=ddp"), "SLURM_NTASKS=1, .*where the trainer has 2 device"),
        (
            {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"},
            ("trainer.devices=4", "+trainer.strategy=ddp"),
            "SLURM_NTASKS_PER_NODE=2, .*where the trainer has 4 device",
        ),
        (
            {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2"},
            ("trainer.devices=4", "+trainer.strategy=ddp"),
            r"SLURM_NNODES=2, .*where the trainer has 4 device\(s\) on 1 node",
        ),
        ({"SLURM_NTASKS": "two"}, (), "no whole number as SLURM_NTASKS"),
        ({"SLURM_PROCID": None}, (), "SLURM_NTASKS=1, .*but not SLURM_PROCID"),
    ],
)
def test_variables_that_do_not_fit_are_named(tmp_path, monkeypatch, name, variables, words, sentence):
    for variable, value in (FITTING | variables).items():
        if value is not None:
            monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=sentence) as caught:
        built(tmp_path, *words, name=name)
    for part in ("start it with srun", "trainer.devices", "env -u SLURM_NTASKS"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "variables",
    [{}, {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"}, {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "interactive"}],
)
def test_variables_that_fit_or_that_lightning_leaves_aside(tmp_path, monkeypatch, variables):
    for variable, value in (FITTING | variables).items():
        monkeypatch.setenv(variable, value)
    assert built(tmp_path).world_size == 1


def test_another_error_of_the_trainer_stays_as_it_is(tmp_path, monkeypatch):
    for variable, value in FITTING.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match="Precision 'many' is invalid"):
        built(tmp_path, "trainer.precision=many")
