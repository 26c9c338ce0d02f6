"""How often, how surely and how honestly a model is right."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryCalibrationError, MulticlassAccuracy

from bcos_vit.metrics.group import Batch, Group
from bcos_vit.models import ViT

BINS = 15
BELOW_ONE = 1 - 1e-7
"""A probability of exactly 1 would have a bin of its own in torchmetrics, the sixteenth."""


class Accuracy(Group):
    """Top-1 and, with more than five classes, top-5 accuracy, loss, and calibration error.

    The loss is that of the model's probabilities: for sigmoids, as of B-cos models, binary cross-entropy, mean over
    classes (arXiv 2306.10898), for a softmax cross-entropy. The calibration error is the expected
    difference between the probability of the predicted class and how often it is right, in 15 bins (Guo et al.,
    arXiv 1706.04599, eq. 3); sigmoids need not sum to one.
    """

    def __init__(self, model: ViT) -> None:
        super().__init__(model)
        classes = model.spec.num_classes
        self.top1 = MulticlassAccuracy(classes, average="micro")
        self.top5 = MulticlassAccuracy(classes, average="micro", top_k=5) if classes > 5 else None
        self.loss = MeanMetric(nan_strategy=math.nan)  # a loss that is no number is not left out
        self.calibration = BinaryCalibrationError(n_bins=BINS)

    def update(self, batch: Batch) -> None:
        logits, labels = batch.logits, batch.labels
        self.top1.update(batch.predicted, labels)
        if self.top5 is not None:
            self.top5.update(logits, labels)
        if batch.model.spec.probability == "sigmoid":
            one_hot = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
            loss = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none").mean(1)
        else:
            loss = F.cross_entropy(logits, labels, reduction="none")
        self.loss.update(loss)
        probabilities = batch.model.probabilities(logits).gather(1, batch.predicted[:, None])[:, 0]
        self.calibration.update(probabilities.float().clamp(max=BELOW_ONE), (batch.predicted == labels).int())

    def compute(self) -> dict[str, float]:
        found = {"top1": float(self.top1.compute())}
        if self.top5 is not None:
            found["top5"] = float(self.top5.compute())
        return found | {"loss": float(self.loss.compute()), "calibration_error": float(self.calibration.compute())}

    def rows(self, found: dict[str, float]) -> dict[str, str]:
        rows = {"accuracy, top-1": f"{100 * found['top1']:.2f} %"}
        if "top5" in found:
            rows["accuracy, top-5"] = f"{100 * found['top5']:.2f} %"
        return rows | {"loss": f"{found['loss']:.4f}", "calibration error": f"{found['calibration_error']:.4f}"}
