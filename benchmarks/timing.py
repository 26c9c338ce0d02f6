"""Times of several contenders, taken in turns in one process, so that a slow minute of the machine hits them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def in_turns(
    contenders: Mapping[str, Callable[[], object]], rounds: int, wait: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of every contender in every round, after one round that does not count.

    Parameters
    ----------
    contenders
        Name -> what is timed.
    rounds
        How often each is run; the order turns from round to round.
    wait
        Returns when the device has finished.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            wait()
            start = time.perf_counter()
            contenders[name]()
            wait()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(one: list[float], other: list[float]) -> str:
    """Median and quartiles of the ratios of the rounds: ``1.07 (1.05 to 1.10)``."""
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    if len(ratios) < 2:
        return f"{ratios[0]:.2f}"
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"
