"""Ten outlines, and how one is drawn: which share of each pixel it covers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Points = Sequence[tuple[float, float]]
FINER = 8
"""A pixel is drawn as so many by so many, of which the share that is covered is taken."""


def _circle(radius: float = 1, x: float = 0, y: float = 0) -> Points:
    turns = [2 * math.pi * number / 48 for number in range(48)]
    return [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns]


def _polygon(corners: int, inner: float = 1) -> Points:
    """Corners on the unit circle, by turns with those of a circle of radius ``inner``."""
    turns = [2 * math.pi * number / corners for number in range(corners)]
    return [(r * math.cos(t), r * math.sin(t)) for r, t in zip([1, inner] * corners, turns, strict=False)]


def _heart() -> Points:
    turns = [2 * math.pi * number / 48 for number in range(48)]
    xs = [16 * math.sin(t) ** 3 for t in turns]
    ys = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in turns]
    reach = max(math.hypot(x, y + 2.5) for x, y in zip(xs, ys, strict=True))
    return [(x / reach, -(y + 2.5) / reach) for x, y in zip(xs, ys, strict=True)]


ARM = 0.34
"""Half the width of an arm of the cross, of which the corners lie on the unit circle."""
REACH = math.sqrt(1 - ARM**2)
CROSS: Points = [
    *((ARM, -REACH), (ARM, -ARM), (REACH, -ARM), (REACH, ARM), (ARM, ARM), (ARM, REACH)),
    *((-ARM, REACH), (-ARM, ARM), (-REACH, ARM), (-REACH, -ARM), (-ARM, -ARM), (-ARM, -REACH)),
]
HOURGLASS: Points = [(-0.75, -0.66), (0.75, -0.66), (0.1, 0), (0.75, 0.66), (-0.75, 0.66), (-0.1, 0)]
ARROW: Points = [(1, 0), (0.1, 0.85), (0.1, 0.32), (-0.94, 0.32), (-0.94, -0.32), (0.1, -0.32), (0.1, -0.85)]

OUTLINES: dict[str, tuple[Points, Points]] = {
    "disk": (_circle(), ()),
    "square": (_polygon(4), ()),
    "triangle": (_polygon(3), ()),
    "star": (_polygon(10, inner=0.42), ()),
    "ring": (_circle(), _circle(0.58)),
    "cross": (CROSS, ()),
    "hourglass": (HOURGLASS, ()),
    "crescent": (_circle(), _circle(0.86, x=0.5)),
    "heart": (_heart(), ()),
    "arrow": (ARROW, ()),
}
"""By class: the corners within the unit circle, and those of what is cut out."""


def coverage(name: str, side: int, x: float, y: float, radius: float, angle: float) -> NDArray[np.float32]:
    """Which share of each pixel of a square image a shape covers, (side, side) in [0, 1].

    ``x``, ``y`` and ``radius``, that of the circle around it, are in pixels; ``angle`` is in radians.
    """
    left, top = math.floor(x - radius), math.floor(y - radius)
    width = math.ceil(2 * radius) + 1  # of the part of the image that the shape can reach
    cosine, sine = radius * FINER * math.cos(angle), radius * FINER * math.sin(angle)

    def placed(points: Points) -> Points:
        return [
            (FINER * (x - left) + cosine * u - sine * v, FINER * (y - top) + sine * u + cosine * v) for u, v in points
        ]

    fine = Image.new("L", (FINER * width, FINER * width))
    draw = ImageDraw.Draw(fine)
    filled, cut = OUTLINES[name]
    draw.polygon(placed(filled), fill=255)
    if cut:
        draw.polygon(placed(cut), fill=0)
    whole = Image.new("L", (side, side))
    whole.paste(fine.reduce(FINER), (left, top))
    return np.asarray(whole, np.float32) / np.float32(255)


def stripes(side: int, period: float, angle: float, phase: float) -> NDArray[np.bool_]:
    """A pattern of stripes (side, side) of this period in pixels, half of them True."""
    rows, columns = np.mgrid[:side, :side]
    return np.sin(2 * math.pi * (np.cos(angle) * columns + np.sin(angle) * rows) / period + phase) > 0
