"""Short training runs for tests, and what they leave."""

from __future__ import annotations

import csv
import hashlib
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning import Callback
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from bcos_vit.evaluation import Report
from bcos_vit.training import Classifier, run

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
# Large enough to go through every part of a run, small enough to take seconds.
SHORT = ("recipe.epochs=2", "recipe.classifier.schedule.warmup_steps=3", "+trainer.limit_train_batches=4")
# A tenth of the time, where it does not matter what is learnt.
SMALL = (*SHORT, "+model.depth=1", "+model.width=24", "+model.mlp_width=32", "+trainer.enable_progress_bar=false")


def config(*overrides: str, name: str = "train") -> DictConfig:
    """configs/train.yaml, or another, with overrides."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(name, list(overrides))


def train(*overrides: str, watcher: Callback | None = None) -> Report | None:
    """A small run without a gallery, with ``watcher`` called before all other callbacks."""
    original = run._callbacks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Report, "draw_gallery", lambda *_: False)  # half of the time
        if watcher is not None:
            patch.setattr(run, "_callbacks", lambda *given: [watcher, *original(*given)])
        return run.train(config(*SMALL, *overrides))


def environment(folder: Path) -> dict[str, str]:
    """Of a user who has never used anything, and whose home and temporary files lie in ``folder``."""
    private = {"HOME": "home", "TMPDIR": "tmp"}
    for name in private.values():
        (folder / name).mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "XDG", "SLURM"))}
    # Matplotlib would take long to look for all fonts of the machine again.
    shared = {"OMP_NUM_THREADS": "1", "MPLCONFIGDIR": matplotlib.get_cachedir()}
    return kept | shared | {name: str(folder / below) for name, below in private.items()}


def start(*arguments: str, folder: Path, **variables: str) -> subprocess.Popen[str]:
    """``python train.py`` as users start it, in ``folder``; home and temporary files lie beside it."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment(folder.parent / f"{folder.name} private") | variables,
    )


def command(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The same, waited for."""
    process = start(*arguments, folder=folder, **variables)
    try:
        out, err = process.communicate(timeout=900)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


class Recorder(Callback):
    """Keeps what can be seen of every training step from outside, and may cut the run short.

    Parameters
    ----------
    cut
        The step, counted from 0, before which an error ends the run.
    """

    def __init__(self, cut: int | None = None) -> None:
        self.cut = cut
        self.places: list[tuple[int, int]] = []
        """(epoch, step) before every step."""
        self.rates: list[float] = []
        """The learning rate of every step."""
        self.norms: list[float] = []
        """The norm of all gradients of every step, before clipping, in float64."""
        self.weights: list[dict[str, Tensor]] = []
        """After every step."""

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_step == self.cut:
            raise Cut
        self.places.append((trainer.current_epoch, trainer.global_step))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_before_optimizer_step(self, trainer, module, optimizer):
        gradients = torch.cat([p.grad.double().flatten() for p in module.parameters()])
        self.norms.append(float(gradients.square().sum().sqrt()))

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.weights.append({name: p.detach().clone() for name, p in module.model.named_parameters()})


class Cut(Exception):  # noqa: N818 - nothing is wrong
    """Ends a run in the middle."""


def logged(output: Path) -> dict[str, list[tuple[int, float]]]:
    """Name -> (step, value) in the order of ``log/metrics.csv``."""
    found = defaultdict(list)
    with (output / "log/metrics.csv").open() as file:
        for row in csv.DictReader(file):
            step = int(row.pop("step"))
            for name, value in row.items():
                if value:
                    found[name].append((step, float(value)))
    return dict(found)


def checkpoint(output: Path, name: str = "last") -> dict:
    """The content of a checkpoint of a run."""
    return torch.load(output / f"checkpoints/{name}.ckpt", weights_only=True)


def files(folder: Path) -> dict[str, str]:
    """All files below ``folder`` by path, with their hashes."""
    found = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two state dicts are bitwise equal."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def write_photos(root: Path, images: dict[str, int], size: int = 12) -> Path:
    """Folders ``part/class`` below ``root`` with so many photos each, which differ."""
    for number, (name, count) in enumerate(images.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            noise = np.random.default_rng([number, index]).integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / name / f"{index}.png")
    return root


def prescribe(patch: pytest.MonkeyPatch, *accuracies: float) -> None:
    """Let validation find these accuracies, epoch by epoch, whatever the model does."""

    def step(self, batch, index):
        self.log("val_accuracy", accuracies[self.current_epoch], batch_size=len(batch[0]))

    patch.setattr(Classifier, "validation_step", step)
