"""Pictures of explanations: image, contribution map, colour explanation, and the ledger in words."""

from __future__ import annotations

import io
import os
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from bcos_vit.atomic import write_whole
from bcos_vit.explanation.targets import AGAINST_MEAN, LOGIT
from bcos_vit.extras import needs

if TYPE_CHECKING:
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    from bcos_vit.explanation.result import Explanation

MAP_COLOURS = "RdBu_r"  # red speaks for the class, blue against it
TITLES = ("image", "contributions", "colour explanation", "ledger")
LEDGER = 22
"""Characters of a ledger's line."""
PHOTOGRAPH = 64
"""Pixels of a side from which colour explanations are smoothed; smaller images are shown pixel by pixel."""


def rows(
    e: Explanation,
    class_names: Sequence[str] | None = None,
    *,
    title: str | None = None,
    smooth: int | None = None,
    percentile: float = 99.5,
) -> Figure:
    """Four cells beside each other for every image and target; all maps share one symmetric colour scale.

    Parameters
    ----------
    e
        An explanation of a batch or a single image.
    class_names
        Names to show instead of class numbers.
    title
        A line above all.
    smooth, percentile
        As in :meth:`Explanation.colour`; a ``smooth`` of None is 15 for photographs and 0 for images of few pixels.

    Raises
    ------
    ImportError
        Without matplotlib, with the install line.
    ValueError
        If there are no images, or fewer class names than classes.
    """
    shown = list(singles(e))
    figure = _figure(10.5, 2.4 * len(shown) + (0.4 if title is None else 0.8))
    if title is not None:
        figure.suptitle(title, fontsize=10, parse_math=False)
    bar = _colour_bar(shown)
    cells = figure.subplots(len(shown), 4, squeeze=False, width_ratios=(1, 1, 1, 1.2))
    for axes, single in zip(cells, shown, strict=True):
        _draw(axes, single, class_names, bar, smooth, percentile)
        axes[3].set_box_aspect(1)  # as high as the pictures beside it
        axes[3].set_anchor("W")
    for ax, name in zip(cells[0], TITLES, strict=True):
        ax.set_title(name, fontsize=10, loc="left")
    figure.colorbar(bar, ax=cells[:, 1].tolist(), label=f"added to the {_value(e)}", fraction=0.04, pad=0.01)
    return figure


def columns(
    parts: Mapping[str, Explanation],
    class_names: Sequence[str] | None = None,
    *,
    smooth: int | None = None,
    percentile: float = 99.5,
) -> Figure:
    """Four cells below each other for every image and target, and a band of such columns for every caption.

    Parameters and errors are those of :func:`rows`; ``parts`` are explanations by their captions.
    """
    bands = {caption: list(singles(e)) for caption, e in parts.items()}
    longest = max(map(len, bands.values()), default=0)
    figure = _figure(1.55 * longest + 1.2, 6.2 * len(bands))
    bar = _colour_bar([single for shown in bands.values() for single in shown])
    rows_of_bands = figure.subfigures(len(bands), 1, squeeze=False)[:, 0]
    for band, (caption, shown) in zip(rows_of_bands, bands.items(), strict=True):
        band.suptitle(caption, fontsize=11)
        cells = band.subplots(4, longest, squeeze=False, height_ratios=(1, 1, 1, 0.9))
        for ax in cells.flat:
            ax.set_axis_off()
        for axes, single in zip(cells.T, shown, strict=False):
            _draw(axes, single, class_names, bar, smooth, percentile)
        for ax, name in zip(cells[:, 0], TITLES, strict=True):
            ax.text(-0.08, 0.5, name, rotation=90, ha="right", va="center", transform=ax.transAxes)
        words = f"added to the {_value(shown[0]) if shown else 'logit'}"
        band.colorbar(bar, ax=cells[1].tolist(), label=words, fraction=0.04, pad=0.01)
    return figure


def ledger(e: Explanation, class_names: Sequence[str] | None = None) -> str:
    """The ledger of one image and one target in words, a line a term."""
    parts = {"image" if e.at == "image" else "tokens": e.image, **e.constants}
    lines = [f"{label:<8}{float(value):+9.3f}" for label, value in parts.items()]
    lines += [f"{_value(e):<8}{float(e.logit):+9.3f}", f"{'residual':<8}{float(e.residual):+9.0e}"]
    if e.probability is not None:
        lines.append(f"{'p':<8}{100 * float(e.probability):8.2f}%")
    words = target_name(e, class_names) + ("" if e.at == "image" else f" at {e.at}")
    return "\n".join([*textwrap.wrap(words, LEDGER), *lines])


def target_name(e: Explanation, class_names: Sequence[str] | None = None) -> str:
    """What one image is explained for: ``tabby``, or ``tabby rather than lynx``; what is no class, in its own words."""
    if e.of not in (LOGIT, AGAINST_MEAN):
        return e.of
    classes = [e.target] if e.against is None else [e.target, e.against]
    names = [_class_name(int(c), class_names) for c in classes]
    return " rather than ".join([*names, *(["the mean class"] if e.of == AGAINST_MEAN else [])])


def _class_name(number: int, class_names: Sequence[str] | None) -> str:
    if class_names is not None and number >= len(class_names):
        raise ValueError(
            f"class {number} is explained, but only {len(class_names)} class names are given, those of classes 0 to "
            f"{len(class_names) - 1}: give one for every class of the model, or none"
        )
    return str(number) if class_names is None else class_names[number]


def _value(e: Explanation) -> str:
    return "logit" if e.of in (LOGIT, AGAINST_MEAN) else "value"


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file, 110 dots an inch."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for it
        warnings.filterwarnings("ignore", message="constrained_layout not applied")  # all is drawn, if closely
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", pad_inches=0.08)
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


def _figure(width: float, height: float) -> Figure:
    require_matplotlib()
    from matplotlib.figure import Figure  # not pyplot: no window, no backend, nothing global

    return Figure(figsize=(width, height), layout="constrained")


def _colour_bar(shown: Sequence[Explanation]) -> ScalarMappable:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    if not shown:
        raise ValueError("there is nothing to draw: the explanation holds no images")
    values = np.concatenate([np.abs(_array(e.contributions)).ravel() for e in shown])
    scale = float(np.percentile(values, 99.5)) or 1.0
    return ScalarMappable(Normalize(-scale, scale), MAP_COLOURS)


def _draw(
    axes: Any,
    e: Explanation,
    class_names: Sequence[str] | None,
    bar: ScalarMappable,
    smooth: int | None,
    percentile: float,
) -> None:
    image, contributions, colour, text = axes
    if smooth is None:
        smooth = 15 if min(e.images.shape[-2:]) >= PHOTOGRAPH else 0
    for ax in axes:
        ax.set_axis_off()
    image.imshow(_array(e.images).clip(0, 1).transpose(1, 2, 0))
    contributions.imshow(_array(e.contributions), cmap=bar.cmap, norm=bar.norm)
    if e.weights is not None and e.at == "image":
        colour.imshow(_array(e.colour(smooth, percentile)).transpose(1, 2, 0))
    words = text.text(0, 0.95, ledger(e, class_names), family="monospace", fontsize=7.5, va="top")
    words.set(transform=text.transAxes, parse_math=False)  # a class may well be called "$5"


def _array(t: Tensor) -> Any:
    return t.detach().cpu().float().numpy()
