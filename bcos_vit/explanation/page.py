"""A page of pictures: every cell has its place in inches, so that it is known how large a pixel is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from bcos_vit.explanation.lettering import families, fold, spelt
from bcos_vit.explanation.words import ledger, target_name, value_name

if TYPE_CHECKING:
    from bcos_vit.explanation.result import Explanation

MAP_COLOURS = "RdBu_r"  # red speaks for the class, blue against it
ENLARGED = 8
"""Times beyond which an enlarged pixel is interpolated: such large squares hide what they show together."""
SIDE = 2.6
"""Inches of a square picture's side: a pixel of a 32 x 32 image is drawn more than 8 times enlarged."""
LONGEST = 9
"""Width by height, or height by width, up to which a cell has the shape of its image."""
LEDGER = 22
"""Characters of a ledger's line."""
LEDGER_WIDTH = 1.75
"""Inches of a ledger's line."""
LINE = 0.16
"""Inches from one line of a ledger to the next."""
BAR = 1.15
"""Inches for a colour bar with its labels."""


@dataclass(frozen=True)
class Style:
    """How explanations are drawn, as :func:`~bcos_vit.explanation.plot.rows` takes it."""

    class_names: Sequence[str] | None
    smooth: int | None
    percentile: float
    exact: bool


class Page:
    """A figure on which things are put by their distance in inches from its left and upper edges."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height))  # not pyplot: no window, no backend, nothing global
        self.width, self.height = width, height

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """An empty cell; a picture of another shape lies in its upper left corner."""
        box = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        ax = self.figure.add_axes(box)
        ax.set_axis_off()
        ax.set_anchor("NW")
        return ax

    def words(self, left: float, top: float, text: str, size: float, **style: Any) -> None:
        """Lines of text, their upper left corner at the place given."""
        lines = self.figure.text(left / self.width, 1 - top / self.height, text, fontsize=size, family=families(text))
        lines.set(**{"va": "top", "parse_math": False} | style)  # a class may well be called "$5"

    def colour_bar(self, scale: ScalarMappable, e: Explanation, left: float, top: float, height: float) -> None:
        """The scale of the maps to its left, with both ends in numbers."""
        ax = self.axes(left + 0.08, top, 0.1, min(height, SIDE))
        ax.set_axis_on()
        end = scale.get_clim()[1] or 0.0
        bar = self.figure.colorbar(scale, cax=ax, ticks=[-end, 0, end])
        bar.ax.set_yticklabels([f"{-end:.3g}", "0", f"{end:+.3g}"])
        bar.set_label(f"added to the {value_name(e)}", fontsize=9)
        bar.ax.tick_params(labelsize=8)


class Picture(AxesImage):
    """An image whose pixels are interpolated if they are drawn more than 8 times enlarged, or never if ``exact``."""

    def __init__(self, ax: Axes, pixels: np.ndarray, exact: bool, **style: Any) -> None:
        super().__init__(ax, **style)
        self.exact, self.pixels = exact, pixels
        self.set_data(pixels)
        self.set_extent((-0.5, pixels.shape[1] - 0.5, pixels.shape[0] - 0.5, -0.5))
        ax.add_image(self)
        ax.set_aspect("equal")
        self.set_clip_path(ax.patch)
        self._choose(1.0)

    def draw(self, renderer: Any) -> None:
        """Draw for the renderer's own resolution, which is known only now."""
        self._choose(renderer.get_image_magnification())
        super().draw(renderer)

    def _choose(self, magnification: float) -> None:
        height, width = self.pixels.shape[:2]
        box = self.axes.get_window_extent()
        enlarged = magnification * max(box.width / width, box.height / height)
        # Linear interpolation keeps every pixel's own colour at its centre, and leaves nobody's range.
        chosen = "nearest" if self.exact else "bilinear" if enlarged > ENLARGED else None
        self.set_interpolation(chosen)


def cell_size(e: Explanation) -> tuple[float, float]:
    """Width and height in inches of the images' pictures, which all have the same area, whatever their shape."""
    height, width = e.images.shape[-2:]
    stretch = math.sqrt(min(max(width / height, 1 / LONGEST), LONGEST))
    return SIDE * stretch, SIDE / stretch


def shared_scale(shown: Sequence[Explanation]) -> ScalarMappable:
    """One symmetric scale of colours for the contributions of all that are ``shown``."""
    values = np.abs(np.concatenate([array(e.contributions).ravel() for e in shown]))
    values = values[np.isfinite(values)]
    scale = float(np.percentile(values, 99.5)) or float(values.max()) if values.size else 0.0
    return ScalarMappable(Normalize(-(scale or 1.0), scale or 1.0), MAP_COLOURS)


def ledger_words(e: Explanation, class_names: Sequence[str] | None) -> str:
    """The name of what is explained, folded, and its ledger: all that a ledger's cell shows."""
    name = target_name(e, class_names) + ("" if e.at == "image" else f" at {e.at}")
    return "\n".join([fold(spelt(name, "monospace"), LEDGER, 12), ledger(e)])


def draw_cells(cells: Sequence[Axes], e: Explanation, words: str, scale: ScalarMappable, style: Style) -> None:
    """Draw one image and target into four cells: image, contributions, colour explanation and ledger."""
    image, contributions, colour, text = cells
    Picture(image, array(e.images).clip(0, 1).transpose(1, 2, 0), style.exact)
    Picture(contributions, array(e.contributions), style.exact, cmap=scale.cmap, norm=scale.norm)
    if e.weights is not None and e.at == "image":
        Picture(colour, array(e.colour(style.smooth, style.percentile)).transpose(1, 2, 0), style.exact)
    else:
        why = f"{e.method} has no rows" if e.weights is None else "tokens have no colours"
        colour.text(0, 1, f"none: {why}", fontsize=8, va="top", transform=colour.transAxes)
    lines = text.text(0, 1, words, fontsize=9, va="top", family=families(words, "monospace"))
    lines.set(transform=text.transAxes, parse_math=False)


def array(t: Tensor) -> Any:
    """A tensor as matplotlib takes it."""
    return t.detach().cpu().float().numpy()
