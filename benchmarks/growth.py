"""How the cost of an explanation grows with images, classes, side of the image and depth, each by itself.

The settings of one kind take turns in one process, and every explanation is compared with the forward pass of the same
model and images. Peak memory is that of a fresh process for each setting, on a CPU alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from memory import peak_of_a_process
from ratios import USUAL, Growth
from timing import in_turns
from train_step import DEVICE, wait

import bcos_vit

SETTINGS: dict[str, tuple[int, ...]] = {
    "images": (1, 2, 4, 8, 16),
    "classes": (1, 2, 4, 8, 16),
    "side": (112, 224, 448),
    "depth": (3, 6, 12, 24),
}


def grow(name: str, rounds: int) -> list[Growth]:
    """Every setting of one model, on one thread of a CPU: what grows is then work, and not how well it is shared."""
    torch.set_num_threads(1)
    rows = []
    for kind, values in SETTINGS.items():
        works: dict[str, Callable[[], object]] = {}
        for value in values:
            works |= work_of(name, value, USUAL | {kind: value})
        seconds = in_turns(works, rounds, wait)
        units = {value: value**2 if kind == "side" else value for value in values}
        for value in values:
            sizes = USUAL | {kind: value}
            peak = peak_of_a_process(name, "ours", **sizes) / 1024 if DEVICE == "cpu" else None
            ratio = median_ratio(seconds[f"explain {value}"], seconds[f"forward {value}"])
            times = median_ratio(seconds[f"explain {value}"], seconds[f"explain {values[0]}"])
            rows.append(Growth(name, kind, value, ratio, times * units[values[0]] / units[value], peak))
    return rows


def median_ratio(one: list[float], other: list[float]) -> float:
    """Of the ratios round by round."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def work_of(name: str, value: int, sizes: dict[str, int]) -> dict[str, Callable[[], object]]:
    """The explanation and the forward pass of one setting."""
    side = sizes["side"]
    model = bcos_vit.create_model(name, image_size=side, depth=sizes["depth"]).eval().to(DEVICE)
    images = torch.rand(sizes["images"], 3, side, side, device=DEVICE)
    target = None if sizes["classes"] == 1 else bcos_vit.TopK(sizes["classes"])
    return {
        f"explain {value}": lambda: bcos_vit.explain(model, images, target),
        f"forward {value}": torch.no_grad()(lambda: model(images)),
    }
