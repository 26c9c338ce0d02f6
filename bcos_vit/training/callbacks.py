"""What happens around training steps: checkpoints, pictures, and how fast it goes."""

from __future__ import annotations

import functools
import io
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from PIL import Image
from torch import Tensor

from bcos_vit.atomic import write_whole
from bcos_vit.data import DataModule
from bcos_vit.evaluation.side_effects import printable, side_effect
from bcos_vit.explanation import LedgerError, explain
from bcos_vit.explanation.plot import png
from bcos_vit.metrics import lattice_period, lattice_share, white_noise_share
from bcos_vit.models.vit import ViT, require_vit


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``, by validation accuracy, and ``last.ckpt``.

    A tie goes to the later epoch: accuracies of a small validation part tie often, and the learning rate of the
    later one is lower. A resumed run starts with a copy of the best checkpoint of the run that it goes on with, which
    lies beside the ``resumed`` file.
    """

    def __init__(self, folder: Path, *, resumed: str | None = None) -> None:
        super().__init__(folder, "best", monitor="val_accuracy", mode="max", enable_version_counter=False)
        self.resumed = resumed

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        tie = current is not None and self.best_model_score is not None and bool(current == self.best_model_score)
        return tie or super().check_monitor_top_k(trainer, current)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, module)
        assert self.dirpath is not None
        # save_last=True would write it after the best epochs only.
        trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt", self.save_weights_only)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not state["best_model_path"]:
            return  # no validation had run
        kept = Path(state["best_model_path"])
        if self.resumed is not None and (beside := Path(self.resumed).with_name(kept.name)).is_file():
            kept = beside  # also where the whole run was moved
        if not kept.is_file():
            rank_zero_warn(f"the best checkpoint so far, {kept}, is gone: the best is chosen among the epochs to come")
            return
        assert self.dirpath is not None
        here = str(Path(self.dirpath) / kept.name)
        if not Path(here).exists() or not kept.samefile(here):  # the same: a run that goes on in its own folder
            _copy(kept, here)
        places = {"dirpath": self.dirpath, "best_model_path": here, "kth_best_model_path": here, "last_model_path": ""}
        super().load_state_dict(state | places | {"best_k_models": {here: state["best_model_score"]}})


@rank_zero_only
def _copy(file: Path, to: str) -> None:
    Path(to).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, to)


class Explanations(Callback):
    """Draws explanations of a few validation images while a B-cos model learns, to disk and to the logger.

    The largest relative residual of their ledgers is logged as ``largest_residual``; one above the tolerance is
    reported in a warning. The mean :func:`~bcos_vit.metrics.lattice_share` of the maps is ``lattice_share`` in the log,
    and divided by what white noise has ``lattice_share_of_noise``. Conventional models have no explanations, and
    nothing happens.

    Parameters
    ----------
    folder
        Gets ``epoch_0025.png`` and so on.
    every
        Epochs between two pictures; the last epoch of the recipe has one in any case. Epochs without validation have
        none.
    images
        How many images, spread evenly over the validation part.
    tolerance
        As in :meth:`~bcos_vit.Explanation.check`; None: by the precision of the logits.

    Raises
    ------
    ValueError
        For less than 1 epoch or image.
    """

    def __init__(self, folder: Path, *, every: int, images: int, tolerance: float | None = None) -> None:
        for name, found in (("every", every), ("images", images)):
            if not isinstance(found, int) or isinstance(found, bool) or found < 1:
                raise ValueError(f"explanations.{name} must be a whole number of at least 1, found {found!r}")
        if tolerance is not None and not (isinstance(tolerance, int | float) and tolerance >= 0):
            raise ValueError(f"explanations.tolerance must be a number of at least 0, or null, found {tolerance!r}")
        self.folder = folder
        self.every = every
        self.images = images
        self.tolerance = tolerance

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        epoch, model = trainer.current_epoch + 1, require_vit(module)
        due = epoch % self.every == 0 or epoch == trainer.max_epochs
        if trainer.sanity_checking or not due or not model.dynamic_linear or not trainer.is_global_zero:
            return
        with side_effect(f"the picture of epoch {epoch}"):
            self._draw(trainer, module, model, epoch)

    def _draw(self, trainer: Trainer, module: LightningModule, model: ViT, epoch: int) -> None:
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        chosen = data.examples("val", min(self.images, len(data.part("val"))))
        explanation = explain(model, chosen.to(next(model.parameters())))
        maps, period = explanation.contributions, lattice_period(model)
        share = lattice_share(maps, period).mean()
        numbers = {
            "largest_residual": explanation.relative_residual.max(),
            "lattice_share": share,
            "lattice_share_of_noise": share / white_noise_share(maps.shape[-2], maps.shape[-1], period),
        }
        module.log_dict({name: float(number) for name, number in numbers.items()}, rank_zero_only=True)
        try:
            explanation.check(self.tolerance)
        except LedgerError as error:
            rank_zero_warn(f"alarm after epoch {epoch}: {error}")
        picture = png(explanation.plot(class_names=model.class_names, title=f"validation images after epoch {epoch}"))
        self.folder.mkdir(exist_ok=True)
        write_whole(self.folder / f"epoch_{epoch:04}.png", picture)
        _log_picture(trainer, Image.open(io.BytesIO(picture)).convert("RGB"))


def _log_picture(trainer: Trainer, picture: Image.Image) -> None:
    for logger in trainer.loggers:
        with side_effect(f"the picture of step {trainer.global_step} in {type(logger).__name__}"):
            if isinstance(logger, WandbLogger):
                logger.log_image("explanations", [picture], step=trainer.global_step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("explanations", np.asarray(picture), trainer.global_step, dataformats="HWC")


def tolerant(logger: Logger) -> Logger:
    """The same logger, whose failures are warnings from now on, as when a service cannot be reached any more.

    That it can be set up at all is still required: Lightning does it before the first step.
    """
    for name in ("log_hyperparams", "log_metrics", "save", "after_save_checkpoint", "finalize"):
        setattr(logger, name, _tolerant(getattr(logger, name), f"{name} of {type(logger).__name__}"))
    return logger


def _tolerant(method: Callable[..., None], what: str) -> Callable[..., None]:
    @functools.wraps(method)
    def call(*arguments: Any, **named: Any) -> None:
        with side_effect(what):
            method(*arguments, **named)

    return call


class Skipped(Callback):
    """Logs ``skipped_images``, how many training images could not be read so far, and names them in ``file``."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.count = 0

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        found = data.skipped("train")
        module.log("skipped_images", float(len(found)), rank_zero_only=True)
        if len(found) > self.count and trainer.is_global_zero:
            self.count = len(found)
            with side_effect(f"the list of {self.count} training images that cannot be read"):
                reasons = "".join(f"{reason}\n" for reason in data.reasons("train", found))
                write_whole(self.file, printable(reasons))
                print(f"note: {self.count} training images cannot be read and are left out: {self.file}", flush=True)


class Throughput(Callback):
    """Logs ``images_per_second`` of every epoch: training and loading on all processes, without validation.

    Lightning's ThroughputMonitor would log validation batches on the axis of training steps.
    """

    def __init__(self) -> None:
        self.images = 0
        self.seconds = 0.0
        self.start = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self.images, self.seconds, self.start = 0, 0.0, time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, *_: Any) -> None:
        now = time.perf_counter()
        self.images += len(batch[0])
        self.seconds += now - self.start
        self.start = now

    def on_validation_end(self, *_: Any) -> None:
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        rate = self.images / self.seconds if self.seconds else math.nan  # a clock may stand still
        module.log("images_per_second", trainer.world_size * rate, sync_dist=True)
