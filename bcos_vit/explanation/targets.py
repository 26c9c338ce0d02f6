"""What is explained: a class, several, the k most probable, or one class against another."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TopK:
    """The ``k`` classes with the largest logits of every image, largest first.

    >>> TopK(0)
    Traceback (most recent call last):
    ValueError: TopK needs a whole number of at least 1, found 0
    """

    k: int

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not hasattr(self.k, "__index__") or operator.index(self.k) < 1:
            raise ValueError(f"TopK needs a whole number of at least 1, found {self.k!r}")


@dataclass(frozen=True)
class Contrast:
    """The difference ``logit_a - logit_b``: why ``a`` rather than ``b``. Each is a class number or (B,) of them.

    >>> import bcos_vit
    >>> model = bcos_vit.create_model("bcos_vit_digits", pretrained=True)
    >>> e = bcos_vit.explain(model, torch.rand(2, 3, 8, 8), Contrast(4, 9))
    >>> e.target, e.against, e.probability, e.constants["bias"]  # the bias cancels
    (tensor([4, 4]), tensor([9, 9]), None, tensor([0., 0.]))
    """

    a: int | Tensor
    b: int | Tensor


Target = int | Tensor | Sequence[int] | Sequence[Sequence[int]] | TopK | Contrast | None
"""None is the predicted class; (B,) is a class per image; (B, T) is T classes per image."""


@dataclass(frozen=True)
class Resolved:
    """A target with every class number known."""

    classes: Tensor
    """(B,) or (B, T)."""
    against: Tensor | None = None
    """(B,) for a contrast."""

    @property
    def several(self) -> bool:
        """Whether there is a target axis."""
        return self.classes.dim() == 2

    def singles(self) -> list[Resolved]:
        """The T targets one by one, each with (B,) classes."""
        return [Resolved(column) for column in self.classes.unbind(1)] if self.several else [self]

    def coefficients(self, logits: Tensor) -> Tensor:
        """What a single target explains as a combination of logits: (B, K), mostly zeros."""
        chosen = torch.zeros_like(logits).scatter(1, self.classes[:, None], 1)
        return chosen if self.against is None else chosen.scatter(1, self.against[:, None], -1)


def resolve(target: Target, logits: Tensor) -> Resolved:
    """Turn ``target`` into class numbers on the device of ``logits`` (B, K).

    Raises
    ------
    ValueError
        For a class out of range, or a shape that fits no batch of B images.
    TypeError
        For what is no whole number.
    """
    if target is None:
        return Resolved(logits.argmax(1))
    if isinstance(target, TopK):
        if target.k > logits.shape[1]:
            raise ValueError(f"TopK({target.k}) asks for more classes than the model's {logits.shape[1]}")
        return Resolved(logits.topk(target.k).indices)
    if isinstance(target, Contrast):
        a, b = _per_image(target.a, logits), _per_image(target.b, logits)
        if bool((a == b).any()):
            raise ValueError(f"Contrast needs two different classes, found {int(a[a == b][0])} twice")
        return Resolved(a, b)
    classes = _classes(target, logits)
    batch = logits.shape[0]
    if classes.dim() == 0:
        return Resolved(classes.expand(batch))
    if classes.dim() > 2 or classes.shape[0] != batch or classes.numel() == 0:
        raise ValueError(
            f"target must be one class, ({batch},) classes or ({batch}, T) classes for {batch} images, "
            f"found shape {tuple(classes.shape)}"
        )
    return Resolved(classes)


def _per_image(given: int | Tensor, logits: Tensor) -> Tensor:
    classes = _classes(given, logits)
    if classes.dim() > 1 or (classes.dim() == 1 and classes.shape[0] != logits.shape[0]):
        raise ValueError(
            f"Contrast takes one class or ({logits.shape[0]},) classes, found shape {tuple(classes.shape)}"
        )
    return classes.expand(logits.shape[0])


def _classes(given: object, logits: Tensor) -> Tensor:
    try:
        classes = torch.as_tensor(given, device=logits.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"target must be whole class numbers, found {given!r}") from error
    if classes.numel() and (classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool):
        raise TypeError(f"target must be whole class numbers, found {classes.flatten()[0].item()} ({classes.dtype})")
    classes = classes.long()
    outside = classes[(classes < 0) | (classes >= logits.shape[1])]
    if outside.numel():
        raise ValueError(f"target {int(outside[0])} is out of range: the classes are 0 to {logits.shape[1] - 1}")
    return classes
