"""Training as Lightning sees it: a model, its loss, its optimiser, and how gradients are clipped."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from bcos_vit.models import ViT
from bcos_vit.models.about import trained
from bcos_vit.training.batches import micro_batch_weight


class Classifier(LightningModule):
    """Trains ``model``. Checkpoints hold its weights and, as plain values, its spec and the recipe.

    Parameters
    ----------
    model
        Images (B, 3, H, W) in [0, 1] -> logits (B, K).
    loss
        (logits, targets) -> scalar; targets are class numbers (B,) or, of mixed images, shares of the classes (B, K).
    optimizer
        Parameters -> optimiser.
    groups
        Model -> what the optimiser gets: groups of parameters, with a learning rate each. None: all of them alike.
    schedule
        (optimiser, number of steps) -> scheduler, stepped after every step. None: the learning rate stays as it is.
    clip
        Clips the gradients of the parameters it is given, in place, before every step.
    recipe
        Plain values that say how the model is trained, kept in the checkpoints.
    """

    def __init__(
        self,
        model: ViT,
        *,
        loss: nn.Module,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[[Optimizer, int], LRScheduler] | None,
        clip: Callable[[Iterable[nn.Parameter]], object],
        recipe: dict[str, Any],
        groups: Callable[[ViT], list[dict[str, Any]]] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.groups = groups
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip = clip
        self.memory_format = torch.contiguous_format
        self.accuracy = MulticlassAccuracy(model.spec.num_classes, average="micro")
        # Not a plain number: Lightning weighs the shares of several processes wrongly if they are unequal.
        self.train_loss, self.val_loss = (MeanMetric(nan_strategy=math.nan) for _ in range(2))  # NaN is not left out
        described = {"spec": dataclasses.asdict(model.spec), "recipe": recipe, "about": trained(model.about)}
        self.save_hyperparameters(described)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.contiguous(memory_format=self.memory_format))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        images, targets = batch
        loss = self.loss(self(images), targets)
        self.train_loss(loss.detach(), len(images))
        self.log("train_loss", self.train_loss, on_step=False, on_epoch=True)
        return loss * self._weight(batch_index, len(images))

    def _weight(self, batch_index: int, size: int) -> float:
        """So that the gradient added up over micro-batches is that of the mean over the images of the step."""
        per_step = self.trainer.accumulate_grad_batches
        if per_step == 1:
            return 1.0
        loader: DataLoader[Any] = self.trainer.train_dataloader  # type: ignore[assignment]
        batches, total = int(self.trainer.num_training_batches), len(loader.sampler)  # type: ignore[arg-type]
        assert loader.batch_size is not None
        epoch = min(batches * loader.batch_size, total)
        return micro_batch_weight(batch_index, size, per_step, epoch, loader.batch_size)

    def validation_step(self, batch: tuple[Tensor, Tensor] | None, batch_index: int) -> None:
        if batch is None:  # no image of it can be read
            return
        images, targets = batch
        logits = self(images)
        self.accuracy(logits, targets)
        self.val_loss(self.loss(logits, targets), len(images))
        self.log("val_loss", self.val_loss, batch_size=len(images))
        self.log("val_accuracy", self.accuracy, prog_bar=True, batch_size=len(images))

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters() if self.groups is None else self.groups(self.model))
        if self.schedule is None:
            return optimizer
        schedule = self.schedule(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: object, **__: object) -> None:
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.trainer.global_step + 1) % every == 0:  # when it is written: it is a pass over all gradients
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            self.log("gradient_norm", get_total_norm(gradients))  # before clipping
        self.clip(self.parameters())

    def on_train_epoch_end(self) -> None:
        """End the run, in all processes alike, before ``last.ckpt`` is replaced by what has diverged."""
        if not (loss := self.train_loss.compute()).isfinite():
            raise ValueError(
                f"the mean loss of epoch {self.current_epoch} is {float(loss)}: lower "
                "recipe.classifier.optimizer.lr, or lengthen the warm-up"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        names = self.model.class_names
        checkpoint["class_names"] = None if names is None else list(names)
