"""Ratios of works that took turns, and the tables that they make."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

USUAL = {"images": 8, "classes": 1, "side": 224, "depth": 12}
"""What is timed where one size grows: the others."""


@dataclass(frozen=True)
class Line:
    """One ratio."""

    model: str
    work: str
    against: str
    ratio: float
    low: float
    high: float
    goal: float | None
    """The largest ratio aimed at; None where the figure is for comparison only."""


def line(
    name: str, work: str, against: str, goal: float | None, seconds: Mapping[str, list[float]], parts: int = 1
) -> Line:
    """The ratio of two works, round by round; of the first, the time for one of its ``parts``."""
    ratios = [a / parts / b for a, b in zip(seconds[work], seconds[against], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Line(name, work, against, middle, low, high, goal)


def single(name: str, work: str, against: str, ratio: float, goal: float | None) -> Line:
    """A ratio that does not vary from round to round."""
    return Line(name, work, against, ratio, ratio, ratio, goal)


def table(lines: list[Line], about: Mapping[str, Any], note: str) -> str:
    """Markdown: ratios first."""
    head = [
        "# What an explanation costs",
        "",
        "Made by `make bench` (`benchmarks/price.py`, which says what is compared). Smaller is cheaper; a ratio is the",
        f"median of {about['rounds']} rounds in which both took turns, with quartiles. {note}",
        "",
        ", ".join(f"{name} {value}" for name, value in about.items()),
        "",
        "| model | ratio | quartiles | goal | work | against |",
        "|---|---|---|---|---|---|",
    ]
    rows = []
    for found in lines:
        goal = "" if found.goal is None else f"{found.goal:.2f} {'met' if found.ratio <= found.goal else 'missed'}"
        between = "" if found.low == found.high else f"{found.low:.2f} to {found.high:.2f}"
        rows.append(f"| {found.model} | {found.ratio:.2f} | {between} | {goal} | {found.work} | {found.against} |")
    return "\n".join([*head, *rows, ""])


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


def growth_table(rows: list[Growth]) -> str:
    """Markdown."""
    others = ", ".join(f"{kind} {value}" for kind, value in USUAL.items())
    head = [
        "## How the cost grows",
        "",
        f"One size at a time, on one thread of a CPU; the others stay at {others}.",
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
