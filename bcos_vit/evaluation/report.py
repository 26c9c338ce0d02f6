"""What an evaluation found: figures, a table in plain text, and a gallery."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bcos_vit.evaluation.side_effects import side_effect
from bcos_vit.explanation import Explanation
from bcos_vit.explanation.plot import columns, write_png
from bcos_vit.metrics import percent


@dataclass
class Report:
    """Results on one part of a data set."""

    figures: dict[str, dict[str, float]]
    """Group -> name -> value, fractions in [0, 1] and residuals relative; a group that does not apply is empty."""
    images: int
    """How many were evaluated, each once."""
    rows: dict[str, str]
    """The same in words."""
    class_names: Sequence[str] | None = None
    skipped: Sequence[str] = ()
    """Why images were left out, a sentence for each that cannot be read."""
    absent: Sequence[str] = ()
    """The model's classes of which no image was evaluated, by name, or by number where it has no names."""
    gallery: Explanation | None = None
    """One rightly predicted image of each of the first ten classes; None for conventional models."""
    mistakes: Explanation | None = None
    """Some wrongly predicted images: the predicted class against the true one."""
    no_gallery: str = "a conventional model has no linear map"
    """Why there is neither of the two."""
    split: str = "test"
    """Which part it is of."""
    not_fine_tuned: str | None = None
    """What the weights were trained with, where that was changed since and the model has not been trained again."""

    def numbers(self) -> dict[str, object]:
        """Everything that was measured, as JSON takes it."""
        said: dict[str, object] = {"not_fine_tuned": self.not_fine_tuned}
        said |= {"skipped": list(self.skipped), "absent_classes": list(self.absent)}
        return {"images": self.images, **{name: found for name, found in said.items() if found}, **self.figures}

    def table(self) -> list[str]:
        """Everything that was measured, a row each, in ASCII."""
        rows = {"images, each counted once": f"{self.images}"}
        rows |= {"images left out, unreadable": f"{len(self.skipped)}"} if self.skipped else {}
        rows |= {"classes without an image": f"{len(self.absent)}"} if self.absent else {}
        rows |= {"weights": "not fine-tuned"} if self.not_fine_tuned else {}
        rows |= self.rows
        width, values = max(map(len, rows)), max(map(len, rows.values()))
        rule = f"{'-' * width}  {'-' * values}"
        return [rule, *(f"{name:<{width}}  {value:>{values}}" for name, value in rows.items()), rule]

    def lines(self) -> list[str]:
        """The lines that sum it up, in ASCII: accuracy, and for B-cos models residual and image share."""
        lines = []
        if accuracy := self.figures.get("accuracy"):
            lines.append(f"{self.split} accuracy: {100 * accuracy['top1']:.2f} %")
        if ledgers := self.figures.get("completeness"):
            lines.append(f"largest relative residual: {ledgers['largest_residual']:.1e}")
            lines.append(f"image share: {percent(ledgers['smallest_image_share'])}")
        return lines

    def draw_gallery(self, path: str | os.PathLike[str]) -> bool:
        """Draw the explanations to a PNG file, the right ones above the wrong ones; False if there are none."""
        shown = [(_right_caption, self.gallery), (_wrong_caption, self.mistakes)]
        weights = ", by weights that are not fine-tuned" if self.not_fine_tuned else ""
        parts = {f"{caption(len(e))}{weights}": e for caption, e in shown if e is not None and len(e)}
        if parts:
            write_png(columns(parts, self.class_names), path)
        return bool(parts)

    def gallery_line(self, path: str | os.PathLike[str]) -> str:
        """Draw the gallery and say where it is, or why there is none; a failure is a warning."""
        with side_effect(f"the gallery {os.fspath(path)}"):
            if self.draw_gallery(path):
                return f"gallery: {os.fspath(path)}"
            return f"gallery: none, {self.no_gallery}"
        return "gallery: none, a warning above says why"


def _right_caption(count: int) -> str:
    which = "one image of one class" if count == 1 else f"one image of each of {count} classes"
    return f"rightly predicted: {which}"


def _wrong_caption(count: int) -> str:
    which = "one mistake" if count == 1 else f"{count} mistakes"
    return f"{which}: why the predicted class rather than the true one"


def as_json(values: Mapping[str, object]) -> str:
    """The text of a JSON file; a figure that is not finite, which JSON has no word for, becomes null."""
    return json.dumps(_finite(values), indent=2, allow_nan=False) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
