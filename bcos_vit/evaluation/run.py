"""Evaluate a model on labelled images: read every batch once, predict, and explain the predictions."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics import CatMetric
from torchmetrics.classification import MulticlassAccuracy

from bcos_vit.evaluation.report import Ledgers, Report
from bcos_vit.explanation import Contrast, explain
from bcos_vit.models import ViT

MISTAKES = 5
"""At most so many wrong predictions are shown."""


def evaluate(model: ViT, batches: Iterable[tuple[Tensor, Tensor]]) -> Report:
    """Accuracy and, for a B-cos model, the ledger of every prediction.

    Parameters
    ----------
    model
        Put into evaluation mode for the time being.
    batches
        Pairs of (B, 3, H, W) images in [0, 1] and (B,) class numbers.

    Raises
    ------
    ValueError
        If there are no images.
    """
    was_training, device = model.training, next(model.parameters()).device
    # One process reads everything, also where others have trained along.
    accuracy = MulticlassAccuracy(model.spec.num_classes, average="micro", sync_on_compute=False).to(device)
    residuals, shares = (CatMetric(sync_on_compute=False).to(device) for _ in range(2))
    right: dict[int, Tensor] = {}
    wrong: list[tuple[Tensor, int, int]] = []
    count = 0
    model.eval()
    try:
        for images, targets in batches:
            images, targets = images.to(device), targets.to(device)
            count += len(images)
            if model.dynamic_linear:
                explanation = explain(model, images)
                predicted = explanation.target
                residuals.update(explanation.relative_residual)
                shares.update(explanation.image_share)
            else:
                with torch.no_grad():
                    predicted = model(images).argmax(1)
            accuracy.update(predicted, targets)
            for image, found, label in zip(images, predicted.tolist(), targets.tolist(), strict=True):
                if found == label:
                    right.setdefault(label, image)
                elif len(wrong) < MISTAKES:
                    wrong.append((image, found, label))
        if not count:
            raise ValueError("there is nothing to evaluate: the data set holds no images")
        report = Report(float(accuracy.compute()), count, model.class_names)
        if not model.dynamic_linear:
            return report
        relative, share = residuals.compute(), shares.compute()
        report.ledgers = Ledgers(float(relative.max()), float(relative.median()), float(share.min()))
        if right:
            report.gallery = explain(model, torch.stack([right[label] for label in sorted(right)]))
        if wrong:
            shown, found, labels = zip(*wrong, strict=True)
            contrast = Contrast(torch.tensor(found, device=device), torch.tensor(labels, device=device))
            report.mistakes = explain(model, torch.stack(shown), contrast)
        return report
    finally:
        model.train(was_training)
