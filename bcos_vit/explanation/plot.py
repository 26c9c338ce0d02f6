"""Pictures of explanations: image, contribution map, colour explanation, and the ledger in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bcos_vit.explanation.result import Explanation

MAP_COLOURS = "RdBu_r"  # red speaks for the class, blue against it


def draw(e: Explanation, class_names: Sequence[str] | None, smooth: int, percentile: float) -> Figure:
    """One row per image and target; contribution maps share one symmetric colour scale."""
    figure_class, mappable = _matplotlib()
    batch = e if e.images.dim() == 4 else e._apply(lambda t: t[None])
    several = batch.target.dim() == 2
    cells = [(i, t) for i in range(len(batch)) for t in (range(batch.target.shape[1]) if several else (...,))]
    maps = np.stack([batch.contributions[i, t].cpu().numpy() for i, t in cells])
    scale = float(np.percentile(np.abs(maps), 99.5)) or 1.0
    colours = None if e.weights is None else batch.colour(smooth, percentile).cpu().numpy()

    figure = figure_class(figsize=(10.5, 2.3 * len(cells) + 0.5), layout="constrained")
    axes = figure.subplots(len(cells), 4, squeeze=False, width_ratios=(1, 1, 1, 1.5))
    for ax, title in zip(axes[0], ("image", "contributions", "colour explanation", "ledger"), strict=True):
        ax.set_title(title, fontsize=10)
    for row, (i, t), contributions in zip(axes, cells, maps, strict=True):
        for ax in row:
            ax.set_axis_off()
        row[0].imshow(batch.images[i].movedim(0, -1).clamp(0, 1).float().cpu().numpy())
        row[1].imshow(contributions, cmap=MAP_COLOURS, vmin=-scale, vmax=scale)
        if colours is not None:
            row[2].imshow(np.ones((*contributions.shape, 3)))  # transparent is white on any background
            row[2].imshow(colours[i, t].transpose(1, 2, 0))
        row[3].text(0, 0.5, ledger(batch[i], t, class_names), family="monospace", fontsize=9, va="center")
    figure.colorbar(
        mappable(scale), ax=axes[:, 1].tolist(), shrink=min(1.0, 2 / len(cells)), label="added to the logit"
    )
    return figure


def ledger(e: Explanation, t: Any = ..., class_names: Sequence[str] | None = None) -> str:
    """The ledger of a single image (and target number ``t``) in words, a line a term."""

    def name(classes: torch.Tensor) -> str:
        number = int(classes[t])
        return str(number) if class_names is None else class_names[number]

    title = name(e.target) if e.against is None else f"{name(e.target)} rather than {name(e.against)}"
    lines = {"image": e.image, **e.constants, "residual": e.residual}
    text = [f"{label:<9}{float(value[t]):+10.4f}" for label, value in lines.items() if label != "residual"]
    text += [f"{'logit':<9}{float(e.logit[t]):+10.4f}", f"residual {float(e.residual[t]):+10.1e}"]
    if e.probability is not None:
        text.append(f"probability {100 * float(e.probability[t]):.2f} %")
    return "\n".join([title, *text])


def _matplotlib() -> tuple[Any, Any]:
    try:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize
        from matplotlib.figure import Figure  # not pyplot: no global state, no window, no backend
    except ImportError as error:
        raise ImportError("plotting needs matplotlib: pip install 'bcos_vit[plot]'") from error
    return Figure, lambda scale: ScalarMappable(Normalize(-scale, scale), MAP_COLOURS)
