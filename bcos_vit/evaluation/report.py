"""What an evaluation found: a table in plain text, and a gallery."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bcos_vit.atomic import replacing
from bcos_vit.explanation import Explanation
from bcos_vit.explanation.plot import draw


@dataclass(frozen=True)
class Ledgers:
    """How exactly, and how far by the image alone, predictions are accounted for."""

    largest_residual: float
    """Relative, over all images."""
    median_residual: float
    """Relative."""
    smallest_image_share: float
    """In [0, 1]: image / (image + position), the least of all images."""


@dataclass
class Report:
    """Results on one data set."""

    accuracy: float
    """Top-1, in [0, 1]."""
    images: int
    """How many were evaluated."""
    class_names: Sequence[str] | None = None
    ledgers: Ledgers | None = None
    """None for a conventional model, which has no linear map."""
    gallery: Explanation | None = None
    """One rightly predicted image of every class."""
    mistakes: Explanation | None = None
    """Some wrongly predicted images: the predicted class against the true one."""

    def numbers(self) -> dict[str, float]:
        """The results as numbers: fractions in [0, 1], residuals relative."""
        found = {"test_accuracy": self.accuracy, "test_images": float(self.images)}
        return found | ({} if self.ledgers is None else vars(self.ledgers))

    def table(self) -> list[str]:
        """Everything that was measured, a row each, in ASCII."""
        rows = {"test images, each read once": f"{self.images}"}
        rows["rightly predicted"] = f"{round(self.accuracy * self.images)}"
        if self.ledgers is not None:
            rows["ledgers checked"] = f"{self.images}"
            rows["relative residual, median"] = f"{self.ledgers.median_residual:.1e}"
            rows["relative residual, largest"] = f"{self.ledgers.largest_residual:.1e}"
            rows["image share, smallest"] = percent(self.ledgers.smallest_image_share)
        width = max(map(len, rows))
        rule = f"{'-' * width}  {'-' * 9}"
        return [rule, *(f"{name:<{width}}  {value:>9}" for name, value in rows.items()), rule]

    def lines(self) -> list[str]:
        """The three lines that sum it up, in ASCII; only the first for a conventional model."""
        lines = [f"test accuracy: {100 * self.accuracy:.2f} %"]
        if self.ledgers is not None:
            lines.append(f"largest relative residual: {self.ledgers.largest_residual:.1e}")
            lines.append(f"image share: {percent(self.ledgers.smallest_image_share)}")
        return lines

    def draw_gallery(self, path: str | os.PathLike[str]) -> bool:
        """Draw the explanations to a PNG file, the right ones above the wrong ones; False if there are none."""
        shown = {"one image of every class, rightly predicted": self.gallery}
        shown |= {"mistakes: why the predicted class rather than the true one": self.mistakes}
        parts = {caption: e for caption, e in shown.items() if e is not None}
        if not parts:
            return False
        size = next(iter(parts.values())).images.shape[-1]
        # Images of a few pixels are shown as they are; smoothing is for photographs.
        smooth = 15 if size >= 64 else 0
        figure = draw(list(parts.values()), self.class_names, smooth=smooth, across=list(parts))
        with replacing(Path(path)) as temporary:
            figure.savefig(temporary, dpi=110)
        return True


def percent(share: float) -> str:
    """A fraction as a percentage that never rounds up to 100: ``100 %`` means exactly 1.

    >>> percent(1.0), percent(0.9999999), percent(0.31415)
    ('100 %', '99.99 %', '31.41 %')
    """
    return "100 %" if share == 1 else f"{math.floor(1e4 * share) / 100:.2f} %"
