"""Weights & Biases without a network: two trainings in a row, each with a run of its own that lies in its output."""

import json
import struct

import numpy as np
import pytest
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record

from runs import SMALL, command, files

pytestmark = pytest.mark.slow

BLOCK, HEADER = 32768, 7
FULL, LAST = 1, 4


@pytest.fixture(scope="module")
def multirun(tmp_path_factory):
    """The folder in which ``python train.py --multirun`` wrote ``seed0`` and ``seed1``."""
    folder = tmp_path_factory.mktemp("wandb") / "work"
    folder.mkdir()
    done = command(
        *("-m", "seed=0,1", "output=seed${seed}", *SMALL, "trainer.log_every_n_steps=1", "explanations.images=1"),
        *("logger=wandb", "logger.offline=true"),
        folder=folder,
        WANDB_SILENT="true",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "image share: 100 %"  # nothing of wandb's comes after the report
    return folder


@pytest.mark.parametrize("seed", [0, 1])
def test_every_training_has_its_own_run_below_its_output(multirun, seed):
    (run,) = (multirun / f"seed{seed}/wandb").glob("offline-run-*")
    records = _records(run)
    (first,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
    assert (first.project, first.display_name) == ("bcos_vit", f"bcos_vit_digits seed {seed}")
    (end,) = (record.exit for record in records if record.WhichOneof("record_type") == "exit")
    assert end.exit_code == 0


def test_nothing_is_written_elsewhere(multirun):
    outputs = {name.split("/")[0] for name in files(multirun)}
    assert outputs == {"seed0", "seed1", "runs"}
    assert [name for name in files(multirun) if name.startswith("runs")] == ["runs/multirun.yaml"]  # Hydra's
    private = files(multirun.parent / "work private")
    assert all(name.startswith("home/.cache/wandb/logs/") for name in private), private


@pytest.mark.parametrize("seed", [0, 1])
def test_picture_is_kept_and_is_the_one_on_disk(multirun, seed):
    (run,) = (multirun / f"seed{seed}/wandb").glob("offline-run-*")
    (entry,) = (row for row in _history(run) if "explanations/filenames" in row)
    (name,) = entry["explanations/filenames"]
    with (
        Image.open(run / "files" / name) as kept,
        Image.open(multirun / f"seed{seed}/explanations/epoch_0002.png") as own,
    ):
        assert kept.size == (entry["explanations/width"], entry["explanations/height"])
        assert np.array_equal(np.asarray(kept.convert("RGB")), np.asarray(own.convert("RGB")))


@pytest.mark.parametrize("seed", [0, 1])
def test_scalars_are_kept(multirun, seed):
    (run,) = (multirun / f"seed{seed}/wandb").glob("offline-run-*")
    history = _history(run)
    found = {name: [row[name] for row in history if name in row] for row in history for name in row}
    assert len(found["lr-Adam"]) == len(found["gradient_norm"]) == 8
    for name in ("train_loss", "val_loss", "val_accuracy", "images_per_second"):
        assert len(found[name]) == 2, name
        assert min(found[name]) > 0, name
    (residual,) = found["largest_residual"]
    assert 0 <= residual < 1e-5
    (scored,) = {round(180 * accuracy, 3) % 1 for accuracy in found["val_accuracy"]}
    assert scored == 0  # of 180 images


def _history(run):
    """What was logged, call by call."""
    items = (record.history.item for record in _records(run) if record.WhichOneof("record_type") == "history")
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in items]


def _records(run):
    """A .wandb file: a header, then LevelDB's log format, in which records are cut where a block ends."""
    (file,) = run.glob("*.wandb")
    content, at, record, records = file.read_bytes(), HEADER, b"", []
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + HEADER])
        record += content[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (FULL, LAST):
            records.append(Record.FromString(record))
            record = b""
    return records
