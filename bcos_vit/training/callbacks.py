"""What happens around training steps."""

from __future__ import annotations

from pathlib import Path

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``, by validation accuracy, and ``last.ckpt``.

    A tie goes to the later epoch: accuracies of a small validation part tie often, and the learning rate of the
    later one is lower.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder, "best", monitor="val_accuracy", mode="max", save_last=True, enable_version_counter=False
        )

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        tie = current is not None and self.best_model_score is not None and bool(current == self.best_model_score)
        return tie or super().check_monitor_top_k(trainer, current)
