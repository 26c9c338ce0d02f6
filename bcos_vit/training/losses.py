"""The loss of the B-cos models, every class a yes-or-no question of its own; and which loss fits which model."""

from __future__ import annotations

import warnings

import torch.nn.functional as F
from torch import Tensor, nn

from bcos_vit.models import ViTSpec


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


LEARNT = {OneVsRest: "sigmoid", nn.BCEWithLogitsLoss: "sigmoid", nn.CrossEntropyLoss: "softmax"}
"""What makes probabilities of the logits that a loss trains."""


def warn_of_loss(loss: nn.Module, spec: ViTSpec) -> None:
    """Warn of a loss that trains other probabilities than those that the model will state; others are not known."""
    learnt = next((how for kind, how in LEARNT.items() if isinstance(loss, kind)), spec.probability)
    if learnt != spec.probability:
        advice = f"give +model.outputs={learnt}" if spec.family == "standard" else "give another loss"
        warnings.warn(
            f"{type(loss).__name__} trains logits whose {learnt} is a probability, but the model states their "
            f"{spec.probability}: its probabilities will be wrong; {advice}",
            stacklevel=2,
        )
