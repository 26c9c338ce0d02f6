"""How exactly, and how far by the image alone, predictions are accounted for."""

from __future__ import annotations

import math

from torchmetrics import CatMetric

from bcos_vit.metrics.group import Batch, Group
from bcos_vit.models import ViT


class Completeness(Group):
    """The ledger of every prediction: relative residuals and image shares. Conventional models have none."""

    def __init__(self, model: ViT) -> None:
        super().__init__(model)
        self.residuals = CatMetric(nan_strategy=math.nan)  # a residual that is no number is not left out
        self.shares = CatMetric(nan_strategy=math.nan)

    def update(self, batch: Batch) -> None:
        if batch.model.dynamic_linear:
            self.residuals.update(batch.explanation.relative_residual)
            self.shares.update(batch.explanation.image_share)

    def compute(self) -> dict[str, float]:
        if not self.residuals.update_called:
            return {}
        residuals, shares = self.residuals.compute(), self.shares.compute()
        return {
            "ledgers": float(residuals.numel()),
            "largest_residual": float(residuals.max()),
            "median_residual": float(residuals.median()),
            "smallest_image_share": float(shares.min()),
            "median_image_share": float(shares.median()),
        }

    def rows(self, found: dict[str, float]) -> dict[str, str]:
        if not found:
            return {"ledgers checked": "none: a conventional model has no linear map"}
        return {
            "ledgers checked": f"{found['ledgers']:.0f}",
            "relative residual, median": f"{found['median_residual']:.1e}",
            "relative residual, largest": f"{found['largest_residual']:.1e}",
            "image share, median": percent(found["median_image_share"]),
            "image share, smallest": percent(found["smallest_image_share"]),
        }


def percent(share: float) -> str:
    """A fraction as a percentage that never rounds up to 100: ``100 %`` means exactly 1.

    >>> percent(1.0), percent(0.9999999), percent(0.31415)
    ('100 %', '99.99 %', '31.41 %')
    """
    return "100 %" if share == 1 else f"{math.floor(1e4 * share) / 100:.2f} %"
