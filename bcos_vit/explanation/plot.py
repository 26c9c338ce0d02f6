"""Pictures of explanations: image, contribution map, colour explanation, and the ledger in words."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING

from bcos_vit.atomic import write_whole
from bcos_vit.explanation.words import target_name
from bcos_vit.extras import needs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bcos_vit.explanation.result import Explanation

__all__ = ["available", "columns", "png", "require_matplotlib", "rows", "singles", "target_name", "write_png"]

MOST = 100
"""Rows or columns of one figure; each takes up to a quarter of a second on a slow machine."""
LONGEST = 300
"""Inches of a figure's side: matplotlib draws at most 65,535 dots, which leaves room for 200 an inch."""


def rows(
    e: Explanation,
    class_names: Sequence[str] | None = None,
    *,
    title: str | None = None,
    smooth: int | None = None,
    percentile: float = 99.5,
    exact: bool = False,
    first: int | None = None,
) -> Figure:
    """Four cells beside each other for every image and target; all maps share one symmetric colour scale.

    Parameters
    ----------
    e
        An explanation of a batch or a single image: at most 100 rows, fewer if the images are much taller than wide.
    class_names
        Names to show instead of class numbers, one for every class of the model.
    title
        Words above all.
    smooth, percentile
        As in :meth:`Explanation.colour`.
    exact
        Show every pixel as a square; otherwise pixels that are drawn more than 8 times enlarged are interpolated.
    first
        Draw only so many rows.

    Raises
    ------
    ImportError
        Without matplotlib, with the install line.
    ValueError
        If there are no images, too many rows, or too few names.
    """
    require_matplotlib()
    from bcos_vit.explanation import layout

    count = e.target.numel() if first is None else min(first, e.target.numel())
    _require_drawable(e, count, "rows", axis=1)
    return layout.draw_rows(
        list(islice(singles(e), count)), title, layout.Style(class_names, smooth, percentile, exact)
    )


def columns(
    parts: Mapping[str, Explanation],
    class_names: Sequence[str] | None = None,
    *,
    smooth: int | None = None,
    percentile: float = 99.5,
    exact: bool = False,
) -> Figure:
    """Four cells below each other for every image and target, and a band of such columns for every caption.

    Every band has a colour scale of its own, which its colour bar states, and at most 100 columns. ``parts`` are
    explanations by their captions; one that holds no images is left out. Other parameters and errors are those of
    :func:`rows`.
    """
    require_matplotlib()
    from bcos_vit.explanation import layout

    drawn = {caption: e for caption, e in parts.items() if e.target.numel()}
    if not drawn:
        raise ValueError(NOTHING)
    for e in drawn.values():
        _require_drawable(e, e.target.numel(), "columns", axis=0)
    bands = {caption: list(singles(e)) for caption, e in drawn.items()}
    return layout.draw_columns(bands, layout.Style(class_names, smooth, percentile, exact))


NOTHING = "there is nothing to draw: the explanation holds no images"


def _require_drawable(e: Explanation, count: int, what: str, axis: int) -> None:
    """Raise ``ValueError``, before anything is drawn, for no images or more than a figure can take."""
    from bcos_vit.explanation.page import cell_size

    if count == 0:
        raise ValueError(NOTHING)
    most = min(MOST, int(LONGEST / (cell_size(e)[axis] + 0.2)))
    if count <= most:
        return
    targets = count if e.images.dim() == 3 else e.target[0].numel()
    if targets > most:
        how = f"explain at most {most} targets of an image at a time"
    else:
        n = most // targets
        how = f"draw at most {n} images at a time, those of e[:{n}], then of e[{n}:{2 * n}] and so on"
    raise ValueError(f"{count} {what}, one an image and target, are too many for one picture: {how}")


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file, 110 dots an inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def write_png(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure to a PNG file, whole or not at all; ``OSError`` if it cannot be written."""
    write_whole(path, png(figure))


def available() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def require_matplotlib() -> None:
    """Raise ``ImportError`` with the install line if matplotlib is missing."""
    with needs("plot"):
        import matplotlib.figure  # noqa: F401


def singles(e: Explanation) -> Iterator[Explanation]:
    """Each image and target of ``e`` on its own."""
    for single in [e] if e.images.dim() == 3 else (e[i] for i in range(len(e))):
        if single.target.dim() == 0:
            yield single
        else:
            yield from (single.of_target(t) for t in range(len(single.target)))
