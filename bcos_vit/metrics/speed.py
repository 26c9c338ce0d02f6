"""What an explanation costs, in predictions."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torchmetrics import CatMetric

from bcos_vit.explanation import explain
from bcos_vit.metrics.group import Batch, Group
from bcos_vit.models import ViT


class Speed(Group):
    """Explanations per second relative to predictions, timed side by side on the first batches.

    Every batch is predicted and explained in turn, ``repeats`` times, after one round that is not counted; the ratio
    is the median over all rounds, of times taken one right after the other. The absolute figures say something only
    about the machine and what else it did. The predictions of a conventional model are timed alone.

    Parameters
    ----------
    batches
        How many batches, of each process, are timed.
    repeats
        How many rounds a batch is timed for.
    """

    def __init__(self, model: ViT, *, batches: int = 3, repeats: int = 3) -> None:
        super().__init__(model)
        if batches < 1 or repeats < 1:
            raise ValueError(f"speed needs at least 1 batch and 1 repeat, found {batches} and {repeats}")
        self.batches = batches
        self.repeats = repeats
        self.ratios, self.predicting, self.explaining = CatMetric(), CatMetric(), CatMetric()

    def update(self, batch: Batch) -> None:
        if self.batches == 0:
            return
        self.batches -= 1
        model, images = batch.model, batch.images

        def predict() -> None:
            with torch.inference_mode():
                model(images)

        for number in range(1 + self.repeats):
            predicted = _seconds(predict, images.device)
            explained = (
                _seconds(lambda: explain(model, images, check_values=False), images.device)
                if model.dynamic_linear
                else None
            )
            if number == 0:
                continue  # the first round warms up
            self.predicting.update(len(images) / predicted)
            if explained is not None:
                self.explaining.update(len(images) / explained)
                self.ratios.update(predicted / explained)

    def compute(self) -> dict[str, float]:
        found = {"predictions_per_second": float(self.predicting.compute().median())}
        if self.ratios.update_called:
            found["explanations_per_second"] = float(self.explaining.compute().median())
            found["explanations_per_prediction"] = float(self.ratios.compute().median())
        return found

    def rows(self, found: dict[str, float]) -> dict[str, str]:
        rows = {"predictions a second": f"{found['predictions_per_second']:.1f}"}
        if "explanations_per_second" in found:
            rows["explanations a second"] = f"{found['explanations_per_second']:.1f}"
            rows["explanations in the time of a prediction"] = f"{found['explanations_per_prediction']:.2f}"
        return rows


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
