"""Going on from trained weights: the new head first, and early layers more slowly than late ones."""

from __future__ import annotations

import functools
import math
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from bcos_vit.models import ViT


def layer_decay(model: ViT, *, lr: float, decay: float) -> list[dict[str, Any]]:
    """Groups of parameters for an optimiser: each layer learns ``decay`` times as fast as the one above it.

    The layers are the tokeniser, every block, and the head, which learns with ``lr`` (as for BEiT, arXiv 2106.08254).

    Raises ``ValueError`` for a ``decay`` outside (0, 1].
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay must lie above 0 and be at most 1, found {decay}")
    layers: dict[str, nn.Module] = {"tokens": model.tokens}
    layers |= {f"block_{number}": block for number, block in enumerate(model.blocks)}
    layers["head"] = model.head
    return [
        {"params": list(layer.parameters()), "lr": lr * decay ** (len(layers) - number), "name": name}
        for number, (name, layer) in enumerate(layers.items(), start=1)
    ]


def head_first(
    optimizer: Optimizer, total_steps: int, *, alone: float, warmup: float, start: float = 0.01
) -> LRScheduler:
    """The group called ``head`` learns alone at first; what begins warms up, and all ends in a cosine to 0.

    Gradients of the others are computed all along, so that an optimiser with moments knows them when they begin.

    Parameters
    ----------
    alone, warmup
        Shares of ``total_steps``, rounded down: before the other groups begin, and of each linear rise.
    start
        Where a rise begins, as a share of the group's learning rate.

    Raises
    ------
    ValueError
        If there is no step, a share is negative, the two leave nothing, or no group or every one is called ``head``.
    """
    if total_steps < 1:
        raise ValueError(f"a schedule needs at least 1 step, found {total_steps}")
    if min(alone, warmup) < 0 or alone + warmup >= 1:
        raise ValueError(f"alone and warmup must be shares of the steps that leave some, found {alone} and {warmup}")
    heads = [group.get("name") == "head" for group in optimizer.param_groups]
    if not any(heads) or all(heads):
        raise ValueError("head_first needs groups of parameters of which one is called head, as those of layer_decay")
    begins = (0 if head else int(alone * total_steps) for head in heads)
    rise = int(warmup * total_steps)
    return LambdaLR(optimizer, [functools.partial(_rate, b, b + rise, total_steps, start) for b in begins])


def _rate(begin: int, risen: int, end: int, start: float, step: int) -> float:
    if step < begin:
        return 0.0
    if step < risen:
        return start + (1 - start) * (step - begin) / (risen - begin)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - risen) / (end - risen))))
