"""The learning rate, step by step."""

from __future__ import annotations

from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR


def warmup_cosine(optimizer: Optimizer, total_steps: int, *, warmup_steps: int, start: float = 0.01) -> LRScheduler:
    """Linear from ``start`` times the learning rate over ``warmup_steps``, then a cosine to 0 over the rest.

    As in the B-cos v2 release (arXiv 2306.10898). A warm-up as long as the training or longer is no more than a rise,
    of which a warning says how far it gets. Raises ``ValueError`` for less than one step of warm-up.
    """
    if warmup_steps < 1:
        raise ValueError(
            f"warmup_steps must be at least 1, found {warmup_steps}: without a warm-up, and without the cosine, it is "
            "recipe.classifier.schedule=null"
        )
    warmup = LinearLR(optimizer, start, total_iters=warmup_steps)
    if warmup_steps >= total_steps:
        reached = start + (1 - start) * total_steps / warmup_steps
        rank_zero_warn(
            f"the warm-up of {warmup_steps} steps is not shorter than the training of {total_steps}: the learning rate "
            f"rises to {reached:.1%} of what is given and never falls; recipe.classifier.schedule.warmup_steps=... "
            "shortens it"
        )
        return warmup
    cosine = CosineAnnealingLR(optimizer, total_steps - warmup_steps)
    return SequentialLR(optimizer, [warmup, cosine], [warmup_steps])
