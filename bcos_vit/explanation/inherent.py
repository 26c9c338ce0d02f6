"""The inherent explanation: the rows of the model's own linear map, with their ledger."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from bcos_vit import checks
from bcos_vit.explanation.linear_map import LinearMap, Row, collapse
from bcos_vit.explanation.result import IMAGE, Explanation
from bcos_vit.explanation.shifts import by_mean_logits, mean, shifted
from bcos_vit.explanation.targets import LOGIT, Resolved, Target, Unit, check_batch, part, resolve
from bcos_vit.layers.mode import at_least_float32
from bcos_vit.layers.precision import ieee_float32

MEMORY = 2**30
"""Bytes that the graph of one forward pass may take, unless :func:`explain` is told otherwise."""
FIRST = 8 * 224 * 224
"""Pixels of the first forward pass, from which the need of the others is known: eight images of the usual size."""


def explain(
    model: nn.Module,
    images: Tensor,
    target: Target = None,
    *,
    at: str | None = None,
    shifts: int | None = None,
    seed: int = 0,
    check_values: bool = True,
    memory: int = MEMORY,
) -> Explanation:
    """Explain predictions exactly: one forward pass, and one input-only backward pass, batched over targets.

    >>> import bcos_vit
    >>> from bcos_vit.data import Digits
    >>> model = bcos_vit.create_model("bcos_vit_digits", pretrained=True)
    >>> e = bcos_vit.explain(model, Digits("test").images[:4])
    >>> e
    <Explanation (inherent) of 4 images of 8 x 8; largest relative residual ...e-0...>
    >>> torch.allclose(e.logit, e.contributions.sum((1, 2)) + e.constants["bias"])
    True
    >>> bcos_vit.explain(model, e.images, bcos_vit.TopK(3)).target.shape
    torch.Size([4, 3])
    >>> bcos_vit.explain(model, e.images, at="blocks.0").check().contributions.shape  # a token each
    torch.Size([4, 4, 4])
    >>> bcos_vit.explain(model, e.images, shifts=4).check()  # all that differ, of patches of 2 x 2
    <Explanation (inherent, 4 shifts) of 4 images of 8 x 8; largest relative residual ...e-0...>

    Parameters
    ----------
    model
        A B-cos model, wrapped or not; see :func:`collapse`.
    images
        (B, 3, H, W) RGB in [0, 1].
    target
        None for the predicted class, a class number, (B,) or (B, T) class numbers, :class:`TopK`, :class:`Contrast`,
        :class:`Combination`, or a :class:`Unit` inside the network.
    at
        A stage, ``"tokens"`` or ``"blocks.0"``, ...: what its tokens contribute, (B, h, w), instead of the pixels.
    shifts
        n: explain the mean logit of the image and n - 1 copies of it, shifted by whole pixels with a reflected border:
        the exact mean of n rows, constants and contributions, each carried back to the image as it is. It shows less of
        the lattice that strides and patches leave in a map, and less of everything else that depends on where the image
        lies on it; at n times the cost. The shifts are different, the same for all images, spread evenly over one patch
        (half of it to either side, the pixels from one token to the next; 16 for a model without a stage
        ``"tokens"``), and begin with none, so that ``shifts=1`` is the plain explanation. Classes are predicted, and
        :class:`TopK` chosen, by the mean logits, which takes n forward passes more; ``probability`` is that of the
        mean logit; ``logit_error`` and ``contributions_error`` are standard errors over the shifts.
    seed
        Which shifts those are. Random numbers of others are not touched.
    check_values
        Look for NaN and values outside [0, 1] first.
    memory
        Bytes. As many images at once as keep the graph of a forward pass below it, at least one; beyond the first
        (eight of 224 x 224), whose need is measured. The explanations themselves come on top, while they are joined
        twice (with shifts, four times), and so does what backward takes for several targets.

    Returns
    -------
    Explanation
        With ``logit = image + position + bias`` in its ledger, which ``check()`` verifies.

    Raises
    ------
    TypeError, ValueError
        In a sentence, for a model that has no linear map, or images, a target or a stage that do not fit; for
        ``shifts`` of stages or units, or more shifts than there are.
    """
    if not isinstance(memory, Real) or not 0 < memory < math.inf:
        raise ValueError(f"memory must be a number of bytes above 0, found {memory!r}")
    checks.require_float(images, "images")
    if images.dim() != 4:
        collapse(model, images)  # which says what is wrong
    if check_values:
        checks.check_values(images)  # of all parts, before the first
    stages = at is not None or isinstance(target, Unit)
    at_once, done = max(1, FIRST // max(1, images.shape[2] * images.shape[3])), 0
    if shifts is not None:
        if stages:
            raise ValueError("shifts move the pixels, not the tokens of a stage: leave out the shifts, or the stage")
        models = shifted(model, images, shifts, seed)
        given = by_mean_logits(models, images, target, at_once)
        e = mean(explain(moved, images, given, check_values=False, memory=memory) for moved in models)
        return e if given is target else dataclasses.replace(e, cost=e.cost + e.shifts)
    parts: list[Explanation] = []
    while not parts or done < len(images):
        rows = slice(done, done + at_once)
        with ieee_float32():  # once for both passes
            with _kept(model, rows.stop < len(images)) as kept:
                linear_map = collapse(model, images[rows], check_values=False, stages=stages)
            if not parts:
                check_batch(target, len(images))
            parts.append(_explain(linear_map, images[rows], part(target, len(images), rows), at))
        del linear_map  # and with it the graph, before there is another
        done, at_once = rows.stop, max(1, int(memory * at_once / max(1, sum(kept.values()))))
    with torch.inference_mode(False):
        return parts[0] if len(parts) == 1 else Explanation.join(parts)


def _explain(linear_map: LinearMap, images: Tensor, target: Target, at: str | None) -> Explanation:
    with torch.inference_mode(False), torch.no_grad():  # ordinary tensors, wherever the caller is
        shown = images.detach().clone()  # the caller may use the memory again
        if isinstance(target, Unit):
            return _explain_unit(linear_map, shown, target, at)
        resolved = resolve(target, linear_map.logits)
        row = linear_map.row_of(resolved.coefficients, at, keep_graph=False)
        return explain_row(linear_map, shown, resolved, row, at)


def explain_row(linear_map: LinearMap, images: Tensor, target: Resolved, row: Row, at: str | None) -> Explanation:
    """The explanation of ``images`` that a row of their map makes."""
    several = target.classes.dim() == 2
    terms = target.coefficients * (linear_map.logits.unsqueeze(1) if several else linear_map.logits)
    logit = terms.sum(-1)
    source = linear_map.encoded if at is None else linear_map.grid(linear_map.tokens(at))
    weights = row.weights if at is None else linear_map.grid(row.weights)
    return Explanation(
        images=images,
        target=target.classes,
        against=target.against,
        logit=logit,
        probability=logit.sigmoid() if target.against is None and target.of == LOGIT else None,
        contributions=_contributions(weights, source.unsqueeze(1) if several else source),
        magnitude=terms.abs().sum(-1),
        constants=row.constants,
        weights=weights,
        cost=2.0 if not several else 1.0 + target.classes.shape[1],
        of=target.of,
        at=IMAGE if at is None else at,
    )


def _explain_unit(linear_map: LinearMap, images: Tensor, unit: Unit, at: str | None) -> Explanation:
    if at is not None:
        raise ValueError(f"a unit is explained by the image, not at a stage: leave out at={at!r}")
    value, row = linear_map.unit(unit)
    contributions = _contributions(row.weights, linear_map.encoded)
    return Explanation(
        images=images,
        target=torch.full((len(images),), unit.channel, device=images.device),
        logit=value,
        contributions=contributions,
        magnitude=value.abs(),
        constants=row.constants,
        weights=row.weights,
        cost=2.0,
        of=str(unit),
    )


def _contributions(weights: Tensor, source: Tensor) -> Tensor:
    wide = at_least_float32(weights.dtype)
    return (weights.to(wide) * source.to(wide)).sum(-3)


@contextmanager
def _kept(model: nn.Module, asked: bool) -> Iterator[dict[int, int]]:
    """Where in memory, and how much of it, forward keeps for backward besides the weights; nothing if not asked."""
    if not asked:
        yield {}
        return
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return t.detach()  # an operation's own result would else keep the operation, and that the result

    with saved_tensors_hooks(keep, lambda t: t):
        yield kept
