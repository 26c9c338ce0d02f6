"""What a model is worth on ``bcos_vit.data.Shapes``, whose masks are known: shared by the benchmarks on it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from bcos_vit import ViT, explain
from bcos_vit.data import Shapes
from bcos_vit.data.shapes import Split
from bcos_vit.metrics import (
    border_energy,
    confident_grids,
    energy_in_mask,
    grid_pointing,
    join_tiles,
    lattice_period,
    lattice_share,
)

FRESH = 2026
"""Seed of the test images, which no choice was made on: recipes and arms were compared on the validation part."""
GRIDS = 100
AT_ONCE = 100


def measure(model: ViT, *, split: Split = "test", seed: int = FRESH, shifts: int | None = None) -> dict[str, Any]:
    """Figures on one part, means over its images, of the map of the true class; maps of B-cos models alone.

    ``energy_in_mask`` and ``border_energy`` (of two pixels) are without smoothing; ``grid_2x2`` is of 100 grids of
    rightly and surely classified images, and left out where there are too few of those. With ``shifts`` all is of the
    mean over so many shifted images, the accuracy too; which images are sure is not.
    """
    part = Shapes(split, seed=seed)
    scenes = [part.scene(index) for index in range(len(part))]
    images, labels = torch.stack([scene.image for scene in scenes]), torch.tensor(part.labels)
    masks = torch.stack([scene.masks[0] for scene in scenes])
    with torch.no_grad():
        logits = torch.cat([model(batch) for batch in images.split(AT_ONCE)])
    found: dict[str, Any] = {"images": len(images), "accuracy": float((logits.argmax(1) == labels).float().mean())}
    if not model.dynamic_linear:
        return found
    explained = partial(explain, model, shifts=shifts)
    if shifts is not None:
        predicted = torch.cat([explained(batch).target for batch in images.split(AT_ONCE)])
        found["accuracy"] = float((predicted == labels).float().mean())
    batches = zip(images.split(AT_ONCE), labels.split(AT_ONCE), strict=True)
    explanations = [explained(batch, target).check() for batch, target in batches]
    maps = torch.cat([e.contributions for e in explanations])
    found["residual"] = max(float(e.relative_residual.max()) for e in explanations)
    found["energy_in_mask"] = float(energy_in_mask(maps, masks).mean())
    found["area_of_mask"] = float(masks.float().mean())
    found["lattice_share"] = float(lattice_share(maps, lattice_period(model)).mean())
    found["border_energy"] = float(border_energy(maps).mean())
    sure = _sure_grids(model.probabilities(logits), labels)
    if sure is not None:
        grids, targets = join_tiles(images[sure]), labels[sure]
        found["grid_2x2"] = float(grid_pointing(explained(grids, targets).contributions).mean())
    return found


def _sure_grids(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor | None:
    try:
        return confident_grids(probabilities, labels, n=2, grids=GRIDS)
    except ValueError:  # too few images that it is sure of
        return None
