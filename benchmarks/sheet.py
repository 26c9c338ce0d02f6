"""The lines of one model, with the goal of each."""

from __future__ import annotations

from contenders import Works
from ratios import Line, line, single
from timing import in_turns
from train_step import wait

GOALS = {  # the largest ratio aimed at, of models without a stem and with one
    ("forward", "the twin's forward"): (1.10, 1.10),
    ("forward, compiled", "the twin's forward, compiled"): (1.05, 1.05),
    ("learning step", "the twin's step"): (1.15, 1.10),
    ("learning step, compiled", "the twin's step, compiled"): (1.05, 1.05),
    ("explain", "forward"): (1.95, 1.95),
    ("explain, compiled", "forward, compiled"): (1.6, 1.6),
    ("explain, one image, compiled", "explain, one image"): (0.80, None),
    ("explain and colours, one image", "the reference's explain()"): (0.80, 0.85),
    ("five classes and colours, one image", "five calls of the reference"): (0.30, 0.40),
    ("sixteen classes, for each", "forward"): (0.65, 0.65),
    ("ONNX file, one image", "onnxruntime's forward"): (1.9, 1.9),
    ("bytes per explained image", "the reference"): (0.60, 0.60),
}


class Sheet:
    """The lines of one model, as they are taken."""

    def __init__(self, name: str, rounds: int) -> None:
        self.name, self.rounds = name, rounds
        self.lines: list[Line] = []

    def take(self, works: Works, *ratios: tuple[str, str], parts: int = 1) -> None:
        """Let works take turns, and write down ratios of two: of the first, the time for one of its ``parts``."""
        seconds = in_turns(works, self.rounds, wait)
        self.lines += [
            line(self.name, work, against, self.goal(work, against), seconds, parts) for work, against in ratios
        ]

    def put(self, work: str, against: str, ratio: float) -> None:
        """Write down a ratio that does not vary from round to round."""
        self.lines.append(single(self.name, work, against, ratio, self.goal(work, against)))

    def goal(self, work: str, against: str) -> float | None:
        """The largest ratio aimed at; None where the figure is for comparison only."""
        return GOALS.get((work, against), (None, None))["vitc" in self.name]
