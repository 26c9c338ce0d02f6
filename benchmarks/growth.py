"""How the cost of an explanation grows with images, classes, side of the image and depth, each by itself.

The settings of one kind take turns in one process, and every explanation is compared with the forward pass of the same
model and images. Peak memory is that of a fresh process for each setting, on a CPU alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from memory import peak_of_a_process
from timing import in_turns
from train_step import DEVICE, wait

import bcos_vit

USUAL = {"images": 8, "classes": 1, "side": 224, "depth": 12}
SETTINGS: dict[str, tuple[int, ...]] = {
    "images": (1, 2, 4, 8, 16),
    "classes": (1, 2, 4, 8, 16),
    "side": (112, 224, 448),
    "depth": (3, 6, 12, 24),
}


@dataclass(frozen=True)
class Growth:
    """One setting."""

    model: str
    kind: str
    """What grows: "images", "classes", "side" or "depth"."""
    value: int
    ratio: float
    """Time of the explanation over that of the forward pass."""
    per_unit: float
    """Time for one of ``kind`` (of the side: for one pixel), as a share of the same at the first value."""
    peak: float | None
    """MiB that a process takes to explain, weights included; None on a GPU."""


def grow(name: str, rounds: int) -> list[Growth]:
    """Every setting of one model."""
    rows = []
    for kind, values in SETTINGS.items():
        works: dict[str, Callable[[], object]] = {}
        for value in values:
            works |= work_of(name, value, USUAL | {kind: value})
        seconds = {work: statistics.median(times) for work, times in in_turns(works, rounds, wait).items()}
        units = {value: value**2 if kind == "side" else value for value in values}
        first = seconds[f"explain {values[0]}"] / units[values[0]]
        for value in values:
            took = seconds[f"explain {value}"]
            sizes = USUAL | {kind: value}
            peak = peak_of_a_process(name, "ours", **sizes) / 1024 if DEVICE == "cpu" else None
            ratio = took / seconds[f"forward {value}"]
            rows.append(Growth(name, kind, value, ratio, took / units[value] / first, peak))
    return rows


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


def growth_table(rows: list[Growth]) -> str:
    """Markdown."""
    head = [
        "## How the cost grows",
        "",
        f"One size at a time; the others stay at {', '.join(f'{kind} {value}' for kind, value in USUAL.items())}.",
        "*Per unit*: the time for one image, one class, one pixel or one block, where the first line of its kind is 1.",
        "",
        "| model | grows | value | explain / forward | per unit | peak MiB |",
        "|---|---|---|---|---|---|",
    ]
    lines = []
    for row in rows:
        peak = "" if row.peak is None else f"{row.peak:,.0f}"
        lines.append(f"| {row.model} | {row.kind} | {row.value} | {row.ratio:.2f} | {row.per_unit:.2f} | {peak} |")
    return "\n".join([*head, *lines, ""])


def rows_of(figures: dict[str, Any]) -> list[Growth]:
    """The rows of a file of figures."""
    return [Growth(**row) for row in figures["growth"]]
