"""The mean of explanations of shifted images: what depends on where the image lies on the model's grid averages away.

Strides and patches divide an image into cells, and a map shows their lattice whatever the image shows. It stays where
it is while the image moves below it: the mean over all shifts within one cell is freed of it, that over some of them
has less of it, and no weight changes.

It is exact. A shift with a reflected border is a linear map ``S`` of the encoded image ``x``, so the mean logit is

    mean_k (row_k . S_k x + constants_k) = (mean_k S_k^T row_k) . x + mean_k constants_k,

whose row is the mean of rows carried back by the *transpose* of their shifts. The opposite shift is not the same at the
border, and would leave a residual. Here the shift is put in front of the model, so that backward is its transpose.
"""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Iterable
from typing import SupportsIndex

import torch
from torch import Tensor, nn

from bcos_vit.explanation.linear_map import Explainable, collapse, explainable
from bcos_vit.explanation.result import Explanation
from bcos_vit.explanation.targets import Target, TopK, resolve
from bcos_vit.layers.mode import at_least_float32

PERIOD = 16
"""Pixels between cells, downwards and to the right, of a model that names no stage ``"tokens"`` to read it off."""
SAME = ("images", "target", "against", "probability")
"""Fields of an explanation that are not averaged."""


class Shifted(nn.Module):
    """A model that sees every image moved ``down`` and ``right`` by whole pixels, and is explained by the unmoved one.

    >>> import bcos_vit
    >>> model, images = bcos_vit.create_model("bcos_vit_digits", pretrained=True), torch.rand(1, 3, 8, 8)
    >>> linear_map = bcos_vit.collapse(Shifted(model, 1, -2), images)
    >>> torch.allclose(linear_map.logits, model(shift(images, 1, -2)), atol=1e-5)
    True
    >>> torch.equal(linear_map.encoded, model.encode(images))
    True
    """

    def __init__(self, model: Explainable, down: int, right: int) -> None:
        super().__init__()
        self.model = model
        self.down, self.right = down, right

    def encode(self, images: Tensor) -> Tensor:
        """What the model makes of images (B, 3, H, W) that were not moved."""
        return self.model.encode(images)

    def forward_encoded(self, encoded: Tensor) -> Tensor:
        """Logits (B, K) of the encoded images (B, C, H, W) after the move."""
        return self.model.forward_encoded(shift(encoded, self.down, self.right))


def shift(t: Tensor, down: int, right: int) -> Tensor:
    """Move images (..., H, W) by whole pixels, less than H and W; what lies inside is reflected into what gets free.

    >>> shift(torch.arange(5)[None], 0, 2)
    tensor([[2, 1, 0, 1, 2]])
    >>> shift(torch.arange(5)[None], 0, -2)
    tensor([[2, 3, 4, 3, 2]])
    """
    return t.index_select(-2, _sources(t, -2, down)).index_select(-1, _sources(t, -1, right))


def _sources(t: Tensor, axis: int, by: int) -> Tensor:
    """For every place along an axis the one that is moved there, the outermost being the mirror."""
    last = t.shape[axis] - 1
    return last - (last - (torch.arange(last + 1, device=t.device) - by).abs()).abs()


def draw(count: int, period: tuple[int, int], seed: int) -> list[tuple[int, int]]:
    """Different shifts (down, right) within one period around no shift, which is the first.

    They are spread evenly: where both periods are ``p``, among the first ``p``, the next ``p``, ... each step downwards
    occurs once and each to the right once, in an order that ``seed`` decides. So ``p`` shifts cancel every wave along
    an axis. More shifts are those that fewer would be, and others.

    >>> draw(5, (4, 4), seed=0)
    [(0, 0), (-1, -1), (1, 1), (-2, -2), (0, -1)]

    Raises ``ValueError`` for more than a period holds.
    """
    most = math.prod(period)
    if count > most:
        raise ValueError(
            f"shifts={count} asks for more shifts than differ: the lattice of the model repeats after {period[0]} x "
            f"{period[1]} pixels, so there are {most}; give at most that"
        )
    chance = random.Random(seed)
    downs, rights = ([0, *chance.sample(others, len(others))] for others in map(_others, period))
    again = math.lcm(*period)  # after so many, the same pairs would follow
    return [(downs[k % period[0]], rights[(k + k // again) % period[1]]) for k in range(count)]


def _others(period: int) -> list[int]:
    return [step for step in range(-(period // 2), period - period // 2) if step]


def shifted(model: nn.Module, images: Tensor, count: int, seed: int) -> list[Shifted]:
    """``model`` behind each of ``count`` shifts, the same for all ``images`` (B, 3, H, W).

    Raises ``TypeError`` or ``ValueError`` for a wrong number of shifts or seed, or a model that has no linear map.
    """
    count, seed = _whole("shifts", count), _whole("seed", seed)
    if count < 1:
        raise ValueError(f"shifts must be at least 1, found {count}; leave it out to explain the images as they are")
    return [Shifted(explainable(model), *by) for by in draw(count, _period(model, images), seed)]


def _whole(name: str, number: object) -> int:
    if isinstance(number, bool) or not isinstance(number, SupportsIndex):
        raise TypeError(f"{name} must be a whole number, found {number!r}")
    return operator.index(number)


def _period(model: nn.Module, images: Tensor) -> tuple[int, int]:
    """Rows and columns of pixels from one token to the next."""
    linear_map = collapse(model, images[:1], check_values=False, stages=True)
    height, width = images.shape[-2:]
    if "tokens" not in linear_map.stages:
        return min(PERIOD, height), min(PERIOD, width)
    rows, columns = linear_map.grid_size()
    return height // rows, width // columns


def by_mean_logits(models: list[Shifted], images: Tensor, target: Target, at_once: int) -> Target:
    """The classes that ``target`` chooses by the mean logits; what chooses none as it is. ``at_once`` bounds memory."""
    if not (target is None or isinstance(target, TopK)):
        return target
    with torch.inference_mode(False), torch.no_grad():
        chosen = []
        for part in images.split(at_once):
            logits = torch.stack([collapse(model, part, check_values=False).logits for model in models])
            chosen.append(resolve(target, logits.to(at_least_float32(logits.dtype)).mean(0)).classes)
        return torch.cat(chosen)


def mean(explanations: Iterable[Explanation]) -> Explanation:
    """The mean of explanations of the same images and targets by shifted models, with its standard errors.

    Every line of the ledger is averaged, so that it is the ledger of the mean logit; the probability is that of the
    mean logit. ``explanations`` are taken one at a time, to keep only their mean.
    """
    count, cost = 0, 0.0
    means: dict[str, Tensor] = {}
    squares = {"contributions": torch.zeros(()), "logit": torch.zeros(())}
    for e in explanations:
        fields = e._fields()
        count, cost = count + 1, cost + e.cost
        with torch.inference_mode(False), torch.no_grad():
            for name in fields.keys() - set(SAME):
                value = fields[name].to(at_least_float32(fields[name].dtype))
                before = means.get(name, value)
                means[name] = before.lerp(value, 1 / count)
                if name in squares:  # Welford's sum of squared distances from the mean
                    squares[name] = squares[name].to(value) + (value - before) * (value - means[name])
    with torch.inference_mode(False), torch.no_grad():
        fields |= {name: value.to(fields[name].dtype) for name, value in means.items()}
        if "probability" in fields:
            fields["probability"] = fields["logit"].sigmoid()
        if count > 1:
            fields |= {f"{name}_error": (s / (count * (count - 1))).sqrt() for name, s in squares.items()}
        return Explanation._of(fields, e._words() | {"shifts": count, "cost": cost})
