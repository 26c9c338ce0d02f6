"""The learning rate, step by step."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR


def warmup_cosine(optimizer: Optimizer, total_steps: int, *, warmup_steps: int, start: float = 0.01) -> LRScheduler:
    """Linear from ``start`` times the learning rate over ``warmup_steps``, then a cosine to 0 over the rest.

    As in the B-cos v2 release (arXiv 2306.10898), which counts the steps of whole epochs.

    Raises ``ValueError`` if the warm-up leaves nothing of ``total_steps``.
    """
    if not 0 < warmup_steps < total_steps:
        raise ValueError(
            f"warmup_steps must lie between 0 and the {total_steps} steps of training, found {warmup_steps}: give "
            "another recipe.classifier.schedule.warmup_steps, or recipe.classifier.schedule=null for a constant rate"
        )
    warmup = LinearLR(optimizer, start, total_iters=warmup_steps)
    cosine = CosineAnnealingLR(optimizer, total_steps - warmup_steps)
    return SequentialLR(optimizer, [warmup, cosine], [warmup_steps])
