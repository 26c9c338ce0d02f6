"""Pictures of explanations: image, contribution map, colour explanation, and the ledger in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from bcos_vit.extras import needs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bcos_vit.explanation.result import Explanation

MAP_COLOURS = "RdBu_r"  # red speaks for the class, blue against it
TITLES = ("image", "contributions", "colour explanation", "ledger")


def draw(
    parts: Sequence[Explanation],
    class_names: Sequence[str] | None = None,
    *,
    smooth: int = 15,
    percentile: float = 99.5,
    across: Sequence[str] = (),
) -> Figure:
    """Four cells for every image and target; all contribution maps share one symmetric colour scale.

    Parameters
    ----------
    parts
        Explanations, of batches or single images.
    class_names
        Names to show instead of class numbers.
    smooth, percentile
        As in :meth:`Explanation.colour`.
    across
        A caption for every part: a column rather than a row for every image and target, each part on its own line.

    Raises
    ------
    ImportError
        Without matplotlib, with the install line.
    ValueError
        If there are no images.
    """
    with needs("plot"):
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize
        from matplotlib.figure import Figure  # not pyplot: no window, no backend, nothing global

    groups = [list(_singles(part)) for part in parts]
    if not any(groups):
        raise ValueError("there is nothing to draw: the explanation holds no images")
    maps = np.stack([_array(e.contributions) for group in groups for e in group])
    scale = float(np.percentile(np.abs(maps), 99.5)) or 1.0
    if across:
        longest = max(len(group) for group in groups)
        figure = Figure(figsize=(1.55 * longest + 1.2, 6.2 * len(groups)), layout="constrained")
        bands: list[Any] = figure.subfigures(len(groups), 1, squeeze=False)[:, 0].tolist()
        cells = [band.subplots(4, longest, squeeze=False, height_ratios=(1, 1, 1, 0.9)).T for band in bands]
        for band, caption in zip(bands, across, strict=True):
            band.suptitle(caption, fontsize=11)
    else:
        groups = [[e for group in groups for e in group]]
        figure = Figure(figsize=(10.5, 2.4 * len(groups[0]) + 0.4), layout="constrained")
        bands = [figure]
        cells = [figure.subplots(len(groups[0]), 4, squeeze=False, width_ratios=(1, 1, 1, 1.2))]
        for ax in cells[0][:, 3]:
            ax.set_box_aspect(1)  # as high as the pictures beside it
            ax.set_anchor("W")
    bar = ScalarMappable(Normalize(-scale, scale), MAP_COLOURS)
    for band, block, group in zip(bands, cells, groups, strict=True):
        for ax in block.flat:
            ax.set_axis_off()
        for axes, explanation in zip(block, group, strict=False):
            _draw_one(axes, explanation, class_names, scale, smooth, percentile)
        for ax, title in zip(block[0], TITLES, strict=True):
            if across:
                ax.text(-0.08, 0.5, title, rotation=90, ha="right", va="center", transform=ax.transAxes)
            else:
                ax.set_title(title, fontsize=10, loc="left")
        band.colorbar(bar, ax=block[:, 1].tolist(), label="added to the logit", fraction=0.04, pad=0.01)
    return figure


def ledger(e: Explanation, class_names: Sequence[str] | None = None) -> str:
    """The ledger of one image and one target in words, a line a term."""

    def name(number: Tensor) -> str:
        return str(int(number)) if class_names is None else class_names[int(number)]

    title = name(e.target) if e.against is None else f"{name(e.target)} rather than {name(e.against)}"
    lines = [f"{label:<8}{float(value):+9.3f}" for label, value in {"image": e.image, **e.constants}.items()]
    lines += [f"{'logit':<8}{float(e.logit):+9.3f}", f"{'residual':<8}{float(e.residual):+9.0e}"]
    if e.probability is not None:
        lines.append(f"{'p':<8}{100 * float(e.probability):8.2f}%")
    return "\n".join([title, *lines])


def _singles(e: Explanation) -> Iterator[Explanation]:
    """Each image and target of ``e`` on its own."""
    for single in [e] if e.images.dim() == 3 else (e[i] for i in range(len(e))):
        if single.target.dim() == 0:
            yield single
        else:
            yield from (single.of_target(t) for t in range(len(single.target)))


def _draw_one(
    axes: Any, e: Explanation, class_names: Sequence[str] | None, scale: float, smooth: int, percentile: float
) -> None:
    image, contributions, colour, text = axes
    image.imshow(_array(e.images).clip(0, 1).transpose(1, 2, 0))
    contributions.imshow(_array(e.contributions), cmap=MAP_COLOURS, vmin=-scale, vmax=scale)
    if e.weights is not None:
        colour.imshow(_array(e.colour(smooth, percentile)).transpose(1, 2, 0))
    text.text(0, 0.95, ledger(e, class_names), family="monospace", fontsize=7.5, va="top", transform=text.transAxes)


def _array(t: Tensor) -> Any:
    return t.detach().cpu().float().numpy()
