"""The loss of the B-cos models: every class is a yes-or-no question of its own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class OneVsRest(nn.Module):
    """Binary cross-entropy with logits, mean over images and classes (B-cos v2 release).

    In training mode targets are clamped from below to 1/K, the probability at which the logit bias starts every
    class; in evaluation mode the loss is the plain one. Takes class numbers (B,) or, after mixing, (B, K) in [0, 1].
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Logits (B, K) and targets -> scalar."""
        classes = logits.shape[1]
        if target.dim() == 1:
            target = F.one_hot(target, classes)
        target = target.to(logits.dtype)
        if self.training:
            target = target.clamp(min=1 / classes)
        return F.binary_cross_entropy_with_logits(logits, target)
