"""Ratios of works that took turns, and the table that they make."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
