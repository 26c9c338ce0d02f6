"""Do overlapping patches under a smooth window free the maps of patch models from their lattice? They do not.

    python benchmarks/patches.py

A patch model (``simple``, no stem) cuts its image into squares, and treats the pixels of a square by weights of their
own: its maps repeat with the squares. Tried here: windows twice as wide as their stride, under a fixed window
(``hann``: sin^2 by rows and by columns, which adds up to one everywhere), or under none (``flat``). Both are exact
linear maps, whose ledgers close. Lattice shares are of a simple ViT-Ti/16 with random weights, on one photo.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import torch
import torch.nn.functional as F
from skimage.data import astronaut
from torch import Tensor, nn

from bcos_vit import create_model, explain
from bcos_vit.metrics import lattice_period, lattice_share, white_noise_share
from bcos_vit.models import vit

ARMS = ("squares", "flat", "hann")


class Overlapping(nn.Module):
    """(B, C, H, W) -> (B, H/P, W/P, D): windows of 2P x 2P pixels about every P x P square, zeros beyond the border."""

    def __init__(self, stem: Any, patch: int, project: nn.Module, *, window: str) -> None:
        super().__init__()
        self.patch = patch
        self.project = project
        places = (torch.arange(2 * patch) + 0.5) / (2 * patch)
        line = (torch.pi * places).sin() ** 2 if window == "hann" else torch.ones(2 * patch)
        self.register_buffer("window", (line[:, None] * line).flatten(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        p = self.patch
        windows = F.pad(x, (p // 2,) * 4).unfold(2, 2 * p, p).unfold(3, 2 * p, p)  # (B, C, h, w, 2P, 2P)
        values = windows.flatten(4) * self.window
        return self.project(values.permute(0, 2, 3, 4, 1).flatten(3))


def choose(arm: str) -> None:
    """Set this process up for an arm."""
    if arm == "squares":
        return

    def tokens(stem: Any, patch: int, project: Any) -> Overlapping:
        wider = type(project)(4 * project.in_features, project.out_features, b=project.b)
        return Overlapping(stem, patch, wider, window=arm)

    vit.Tokens = tokens  # type: ignore[misc, assignment]


def untrained(arm: str) -> float:
    """Lattice share of a simple ViT-Ti/16 with random weights on a photo."""
    choose(arm)
    torch.manual_seed(0)
    model = create_model("bcos_simple_vit_ti_rope_patch16_224")
    maps = explain(model, model.transform(astronaut())[None]).check().contributions
    return float(lattice_share(maps, lattice_period(model)))


def main(arms: list[str]) -> None:
    """Print the share of one arm, or the table of all, each in a process of its own."""
    if arms:
        print(json.dumps(untrained(arms[0])))
        return
    print(f"| patches | lattice share (white noise {100 * white_noise_share(224, 224, 16):.2f} %) |\n|---|---|")
    for arm in ARMS:
        found = subprocess.run([sys.executable, __file__, arm], check=True, capture_output=True).stdout
        print(f"| {arm} | {100 * json.loads(found):.2f} % |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
