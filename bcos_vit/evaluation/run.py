"""Evaluate a model on one part of a data set: every image once, on as many processes as the trainer has."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from bcos_vit.data import DataModule
from bcos_vit.data.names import note, shortened
from bcos_vit.data.pairing import Pairing
from bcos_vit.evaluation.report import Report
from bcos_vit.evaluation.side_effects import side_effect
from bcos_vit.explanation import Contrast, Explanation, explain
from bcos_vit.metrics import Batch, Group
from bcos_vit.models import ViT
from bcos_vit.models.about import not_fine_tuned

COLUMNS = 10
"""At most so many rightly predicted classes are shown."""
MISTAKES = 5
"""At most so many wrong predictions are shown."""


def evaluate(
    model: ViT,
    data: DataModule,
    metrics: Mapping[str, Callable[[ViT], Group]],
    *,
    trainer: Trainer,
    split: str = "test",
) -> Report:
    """Measure ``metrics`` on one part of ``data``, and explain some images of it.

    Parameters
    ----------
    model
        Evaluated in evaluation mode; it keeps its own.
    data
        Batches of (B, 3, H, W) images in [0, 1] and (B,) class numbers. Its classes are paired with the model's by
        name (:meth:`~bcos_vit.data.DataModule.pair`): metrics and report speak of the model's.
    metrics
        Makers of groups, by their names in the report: ``{"accuracy": Accuracy}``.
    trainer
        Brings devices, processes and the progress bar.
    split
        ``"train"``, ``"val"`` or ``"test"``.

    Returns
    -------
    Report
        The same figures in every process; the pictures in the first only.

    Raises
    ------
    ValueError
        If the part is empty, or holds images of classes that the model does not know.
    """
    pairing = data.pair(split, model.class_names, model.spec.num_classes)
    for text in pairing.notes:
        note(text)
    was_training = model.training
    evaluator = _Evaluator(model, data, split, pairing, {name: make(model) for name, make in metrics.items()})
    before, data.trainer = data.trainer, trainer
    try:
        trainer.test(evaluator, data.evaluation_loader(split), verbose=False)
        names, skipped, absent = model.class_names, evaluator.skipped, evaluator.absent
        report = Report(evaluator.figures, len(evaluator.found), evaluator.rows, names, skipped, absent)
        report.split, report.not_fine_tuned = split, not_fine_tuned(model.about, model.spec)
        if trainer.is_global_zero and model.dynamic_linear:
            model.eval()
            report.no_gallery = "a warning above says why"
            with side_effect("the gallery"):
                report.gallery, report.mistakes = _show(model, data, split, evaluator.found)
        return report
    finally:
        model.train(was_training)
        data.trainer = before


class Outcomes(Metric):
    """Which class every image has and which was predicted, gathered from all processes."""

    numbers: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("numbers", [], dist_reduce_fx="cat")

    def update(self, indices: Tensor, labels: Tensor, predicted: Tensor) -> None:
        self.numbers.append(torch.stack((indices, labels, predicted), dim=1))

    def compute(self) -> Tensor:
        """(N, 3): index in the data set, class and prediction, a row for every image, by index."""
        found = dim_zero_cat(self.numbers)
        return found[found[:, 0].argsort()]


class _Evaluator(LightningModule):
    """Hands every batch to every group."""

    numbers: Tensor
    """(C,) the model's number of each of the data's classes."""

    def __init__(self, model: ViT, data: DataModule, split: str, pairing: Pairing, groups: dict[str, Group]) -> None:
        super().__init__()
        self.model = model
        self.data = data
        self.split = split
        self.register_buffer("numbers", torch.tensor(pairing.numbers))
        self.groups = groups
        self.registered = nn.ModuleList(groups.values())  # so that they are moved along
        self.outcomes = Outcomes()
        self.seen = 0
        self.figures: dict[str, dict[str, float]] = {}
        self.rows: dict[str, str] = {}
        self.found = torch.empty(0, 3)
        self.skipped: list[str] = []
        self.absent: list[str] = []

    def test_step(self, images_and_labels: tuple[Tensor, Tensor] | None, batch_index: int) -> None:
        if images_and_labels is None:  # no image of the batch can be read
            return
        images, own_labels = images_and_labels
        labels = self._of_the_model(own_labels)
        batch = Batch(self.model, images, labels)
        indices = self.data.indices(self.split)[self.seen : self.seen + len(images)]
        self.seen += len(images)
        self.outcomes.update(indices.to(images.device), labels, batch.predicted)
        for group in self.groups.values():
            group.update(batch)

    def _of_the_model(self, labels: Tensor) -> Tensor:
        """(B,) the data's class numbers -> the model's."""
        known = labels.clamp(0, len(self.numbers) - 1)
        numbers = self.numbers[known]
        if not torch.equal(known, labels) or bool((numbers < 0).any()):
            unknown = labels[(known != labels) | (numbers < 0)]
            raise ValueError(f"the {self.split} part has the label {int(unknown[0])}, of which the model has no class")
        return numbers

    def on_test_epoch_end(self) -> None:
        if not self.seen:
            raise ValueError(f"no image of the {self.split} part can be read")
        self.found = self.outcomes.compute().cpu()
        self.skipped = self.data.reasons(self.split, self.data.skipped(self.split))
        names, classes = self.model.class_names, self.model.spec.num_classes
        there = set(self.found[:, 1].tolist())
        self.absent = [str(n) if names is None else names[n] for n in range(classes) if n not in there]
        if self.absent:
            note(f"no image of {len(self.absent):,} of the model's {classes:,} classes: {shortened(self.absent)}")
        for name, group in self.groups.items():
            self.figures[name] = group.compute()
            self.rows |= group.rows(self.figures[name])


def _show(model: ViT, data: DataModule, split: str, outcomes: Tensor) -> tuple[Explanation | None, Explanation | None]:
    """The first rightly predicted image of every class, and the first mistakes as contrasts."""
    part, like = data.part(split), next(model.parameters())
    right: dict[int, int] = {}
    wrong: list[list[int]] = []
    for index, label, predicted in outcomes.tolist():
        if predicted == label:
            right.setdefault(label, index)
        elif len(wrong) < MISTAKES:
            wrong.append([index, predicted, label])

    def images(indices: list[int]) -> Tensor:
        return torch.stack([part[index][0] for index in indices]).to(like)

    gallery = mistakes = None
    if right:
        gallery = explain(model, images([right[label] for label in sorted(right)[:COLUMNS]]))
    if wrong:
        indices, predicted, labels = map(list, zip(*wrong, strict=True))
        contrast = Contrast(torch.tensor(predicted, device=like.device), torch.tensor(labels, device=like.device))
        mistakes = explain(model, images(indices), contrast)
    return gallery, mistakes
