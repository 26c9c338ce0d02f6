"""How much of the explanations is a checkerboard of the model's own making."""

from __future__ import annotations

from bcos_vit.metrics.frequencies import lattice_period
from bcos_vit.metrics.group import Batch, Group
from bcos_vit.metrics.shares import LatticeShare
from bcos_vit.models import ViT


class Lattice(Group):
    """The lattice's share of the maps of all predictions, beside white noise's. Conventional models have none."""

    def __init__(self, model: ViT) -> None:
        super().__init__(model)
        self.share = LatticeShare(lattice_period(model))

    def update(self, batch: Batch) -> None:
        if batch.model.dynamic_linear:
            self.share.update(batch.explanation.contributions)

    def compute(self) -> dict[str, float]:
        if not self.share.update_called:
            return {}
        found = self.share.compute()
        return {
            "lattice_share": float(found["mean"]),
            "standard_error": float(found["standard_error"]),
            "white_noise_share": float(found["chance"]),
            "lattice_share_of_noise": float(found["mean"] / found["chance"]),
        }

    def rows(self, found: dict[str, float]) -> dict[str, str]:
        if not found:
            return {"lattice share of maps": "none: a conventional model has no linear map"}
        return {
            "lattice share of maps, mean": f"{100 * found['lattice_share']:.2f} %",
            "lattice share of white noise": f"{100 * found['white_noise_share']:.2f} %",
        }
