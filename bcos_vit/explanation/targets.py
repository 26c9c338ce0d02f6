"""What is explained: classes, one class against another or against their mean, any combination of logits, or a unit."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LOGIT = "logit"
"""What :attr:`Explanation.of` says where single logits, or the difference of two, are explained."""
AGAINST_MEAN = "logit minus the mean logit"
COMBINATION = "combination of logits"


@dataclass(frozen=True)
class TopK:
    """The ``k`` classes with the largest logits of every image, largest first.

    >>> TopK(0)
    Traceback (most recent call last):
    ValueError: TopK needs a whole number of at least 1, found 0
    """

    k: int

    def __post_init__(self) -> None:
        if not _is_count(self.k) or operator.index(self.k) < 1:
            raise ValueError(f"TopK needs a whole number of at least 1, found {self.k!r}")


@dataclass(frozen=True)
class Contrast:
    """The difference ``logit_a - logit_b``: why ``a`` rather than ``b``, or rather than the mean of all classes.

    >>> import bcos_vit
    >>> model = bcos_vit.create_model("bcos_vit_digits", pretrained=True)
    >>> e = bcos_vit.explain(model, torch.rand(2, 3, 8, 8), Contrast(4, 9))
    >>> e.target, e.against, e.probability, e.constants["bias"]  # the bias cancels
    (tensor([4, 4]), tensor([9, 9]), None, tensor([0., 0.]))
    >>> bcos_vit.explain(model, torch.rand(2, 3, 8, 8), Contrast(4)).of
    'logit minus the mean logit'

    Each is a class number or (B,) of them; ``b`` None is the mean.
    """

    a: int | Tensor
    b: int | Tensor | None = None


@dataclass(frozen=True, eq=False)
class Combination:
    """Any sum ``sum_k c_k logit_k``: ``coefficients`` (K,) for all images, or (B, K).

    >>> import bcos_vit
    >>> model = bcos_vit.create_model("bcos_vit_digits", pretrained=True)
    >>> odd = Combination([0, 1] * 5)
    >>> bcos_vit.explain(model, torch.rand(2, 3, 8, 8), odd).check().of
    'combination of logits'
    """

    coefficients: Tensor | Sequence[float] | Sequence[Sequence[float]]


@dataclass(frozen=True)
class Unit:
    """A channel of a token after some stage, or with stage ``"pooled"`` of the mean token: no logit, an inner value.

    >>> import bcos_vit
    >>> model = bcos_vit.create_model("bcos_vit_digits", pretrained=True)
    >>> e = bcos_vit.explain(model, torch.rand(2, 3, 8, 8), Unit("blocks.1", channel=5, token=3))
    >>> e.check().of, e.contributions.shape
    ('channel 5 of token 3 at blocks.1', torch.Size([2, 8, 8]))

    Tokens count from 0, row by row.
    """

    stage: str
    channel: int
    token: int | None = None

    def __post_init__(self) -> None:
        for what, number in (("channel", self.channel), ("token", self.token)):
            if not _is_count(number) and not (number is None and what == "token"):
                raise TypeError(f"a unit's {what} is a whole number, found {number!r}")

    def __str__(self) -> str:
        return f"channel {self.channel}{'' if self.token is None else f' of token {self.token}'} at {self.stage}"


Target = int | Tensor | Sequence[int] | Sequence[Sequence[int]] | TopK | Contrast | Combination | Unit | None
"""None is the predicted class; (B,) is a class per image; (B, T) is T classes per image."""


@dataclass(frozen=True)
class Resolved:
    """A target in terms of the logits: every class number known, every coefficient set."""

    classes: Tensor
    """(B,) or (B, T); of a combination, the class with the largest coefficient."""
    coefficients: Tensor
    """(B, K) or (B, T, K): what is explained as a sum of logits."""
    against: Tensor | None = None
    """(B,) for a contrast of two."""
    of: str = LOGIT


def resolve(target: Target, logits: Tensor) -> Resolved:
    """Turn ``target`` into class numbers and coefficients on the device of ``logits`` (B, K).

    Raises
    ------
    ValueError
        For a class out of range, or a shape that fits no batch of B images.
    TypeError
        For what is no whole number, or no target of logits.
    """
    if target is None:
        return single(logits.argmax(1), logits)
    check_batch(target, logits.shape[0])  # not len(), which a trace would fix
    if isinstance(target, Unit):
        raise TypeError(f"a unit ({target}) is no combination of logits: explain() takes it, rows() does not")
    if isinstance(target, TopK):
        if target.k > logits.shape[1]:
            raise ValueError(f"TopK({target.k}) asks for more classes than the model's {logits.shape[1]}")
        return single(logits.topk(target.k).indices, logits)
    if isinstance(target, Contrast):
        return _contrast(target, logits)
    if isinstance(target, Combination):
        given = _numbers(target.coefficients).to(logits)
        if given.shape[-1] != logits.shape[1]:
            raise ValueError(f"Combination needs {logits.shape[1]} coefficients, one a class, found {given.shape[-1]}")
        coefficients = given.expand(logits.shape)
        return Resolved(coefficients.argmax(1), coefficients, of=COMBINATION)
    classes = _classes(target, logits)
    return single(classes if classes.dim() else classes.expand(len(logits)), logits)


def check_batch(target: Target, batch: int) -> None:
    """Raise ``ValueError`` or ``TypeError`` for a target whose shape fits no batch of ``batch`` images."""
    if isinstance(target, TopK | Unit) or target is None:
        return
    if isinstance(target, Contrast):
        for side in (target.a, target.b):
            shape = () if side is None else _whole(side).shape
            if shape not in ((), (batch,)):
                raise ValueError(f"Contrast takes one class or ({batch},) classes, found shape {tuple(shape)}")
        return
    if isinstance(target, Combination):
        shape = _numbers(target.coefficients).shape
        if len(shape) not in (1, 2) or (len(shape) == 2 and shape[0] != batch):
            raise ValueError(f"Combination takes (K,) or ({batch}, K) coefficients, found shape {tuple(shape)}")
        return
    classes = _whole(target)
    if classes.dim() > 2 or (classes.dim() and len(classes) != batch) or classes.numel() == 0:
        raise ValueError(
            f"target must be one class, ({batch},) classes or ({batch}, T) classes for {batch} images, "
            f"found shape {tuple(classes.shape)}"
        )


def part(target: Target, batch: int, images: slice) -> Target:
    """The target of some images of a batch of ``batch``, which :func:`check_batch` has let through."""
    if isinstance(target, Contrast):
        b = None if target.b is None else _of_images(_whole(target.b), images)
        return Contrast(_of_images(_whole(target.a), images), b)
    if isinstance(target, Combination):
        given = _numbers(target.coefficients)
        return Combination(given if given.dim() == 1 else given[images])
    if isinstance(target, TopK | Unit) or target is None:
        return target
    return _of_images(_whole(target), images)


def _of_images(per_image: Tensor, images: slice) -> Tensor:
    return per_image[images] if per_image.dim() else per_image


def single(classes: Tensor, logits: Tensor) -> Resolved:
    """The target of class numbers (B,) or (B, T) that are known to be right, on the device of ``logits``."""
    blank = torch.zeros_like(logits) if classes.dim() == 1 else torch.zeros_like(logits).unsqueeze(1)
    return Resolved(classes, blank.expand(*classes.shape, -1).scatter(-1, classes[..., None], 1))


def _contrast(target: Contrast, logits: Tensor) -> Resolved:
    batch, classes = logits.shape
    a = _classes(target.a, logits).expand(batch)
    chosen = single(a, logits).coefficients
    if target.b is None:
        return Resolved(a, chosen - 1 / classes, of=AGAINST_MEAN)
    b = _classes(target.b, logits).expand(batch)
    if bool((a == b).any()):
        raise ValueError(f"Contrast needs two different classes, found {int(a[a == b][0])} twice")
    return Resolved(a, chosen.scatter(1, b[:, None], -1), against=b)


def _classes(given: object, logits: Tensor) -> Tensor:
    classes = _whole(given).to(logits.device)
    outside = classes[(classes < 0) | (classes >= logits.shape[1])]
    if outside.numel():
        raise ValueError(f"target {int(outside[0])} is out of range: the classes are 0 to {logits.shape[1] - 1}")
    return classes


def _whole(given: object) -> Tensor:
    try:
        classes = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"target must be whole class numbers, found {given!r}") from error
    if classes.numel() and (classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool):
        raise TypeError(f"target must be whole class numbers, found {classes.flatten()[0].item()} ({classes.dtype})")
    return classes.long()


def _numbers(given: object) -> Tensor:
    try:
        numbers = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"Combination needs numbers, one a class, found {given!r}") from error
    if numbers.is_complex() or not bool(numbers.isfinite().all()):
        wrong = numbers[~numbers.isfinite()] if not numbers.is_complex() else numbers
        raise ValueError(f"Combination needs finite real coefficients, found {wrong.flatten()[0].item()}")
    return numbers


def _is_count(found: object) -> bool:
    return not isinstance(found, bool) and hasattr(found, "__index__")
