"""What a group of metrics is, and what it gets to see."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor, nn

from bcos_vit.explanation import Explanation, explain
from bcos_vit.models import ViT


class Batch:
    """Labelled images and, computed once and only if a group asks, what the model says about them.

    Attributes
    ----------
    model
        In evaluation mode.
    images
        (B, 3, H, W) RGB in [0, 1].
    labels
        (B,) class numbers.
    """

    def __init__(self, model: ViT, images: Tensor, labels: Tensor) -> None:
        self.model = model
        self.images = images
        self.labels = labels

    @cached_property
    def logits(self) -> Tensor:
        """(B, K) from an ordinary forward pass."""
        with torch.no_grad():
            return self.model(self.images)

    @property
    def predicted(self) -> Tensor:
        """(B,) the class with the largest logit."""
        return self.logits.argmax(1)

    @cached_property
    def explanation(self) -> Explanation:
        """Of the predicted classes; ``TypeError`` for a conventional model."""
        return explain(self.model, self.images, self.predicted)


class Group(nn.Module, ABC):
    """Metrics that are measured and reported together.

    A subclass keeps torchmetrics as attributes: they move with the model and gather from all processes in ``compute``.
    It is built with the model, and with what its file in ``configs/metrics/`` says.
    """

    def __init__(self, model: ViT) -> None:
        super().__init__()

    @abstractmethod
    def update(self, batch: Batch) -> None:
        """Take in one batch."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """All figures by name, over the images of all processes; fractions in [0, 1]. Empty if none apply."""

    @abstractmethod
    def rows(self, found: dict[str, float]) -> dict[str, str]:
        """What ``compute`` found as rows of a table, in ASCII."""
