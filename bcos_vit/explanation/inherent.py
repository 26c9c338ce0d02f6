"""The inherent explanation: the rows of the model's own linear map, with their ledger."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bcos_vit.explanation.linear_map import LinearMap, Row, collapse
from bcos_vit.explanation.result import Explanation
from bcos_vit.explanation.targets import Target, resolve
from bcos_vit.layers.mode import at_least_float32


def explain(model: nn.Module, images: Tensor, target: Target = None, *, check_values: bool = True) -> Explanation:
    """Explain predictions exactly: one forward pass, and one input-only backward pass per target.

    Parameters
    ----------
    model
        A B-cos model, wrapped or not; see :func:`collapse`.
    images
        (B, 3, H, W) RGB in [0, 1].
    target
        None for the predicted class, a class number, (B,) or (B, T) class numbers, :class:`TopK` or
        :class:`Contrast`.
    check_values
        Look for NaN and values outside [0, 1] first.

    Returns
    -------
    Explanation
        With ``logit = image + position + bias`` in its ledger, which ``check()`` verifies.

    Raises
    ------
    TypeError, ValueError
        In a sentence, for a model that has no linear map, or images or a target that do not fit.
    """
    linear_map = collapse(model, images, check_values=check_values)
    logits = linear_map.logits
    resolved = resolve(target, logits)
    combinations = resolved.coefficients(logits)
    found = [_explain_one(linear_map, combination) for combination in combinations]
    if resolved.classes.dim() == 1:
        (row, contributions, logit, magnitude), *_ = found
        weights, constants = row
    else:
        rows = [row for row, *_ in found]
        weights = torch.stack([row.weights for row in rows], dim=1)
        constants = {name: torch.stack([row.constants[name] for row in rows], dim=1) for name in rows[0].constants}
        contributions, logit, magnitude = (torch.stack(t, dim=1) for t in list(zip(*found, strict=True))[1:])
    return Explanation(
        images=images.clone() if images.is_inference() else images.detach(),
        target=resolved.classes,
        against=resolved.against,
        logit=logit,
        probability=logit.sigmoid() if resolved.against is None else None,
        contributions=contributions,
        magnitude=magnitude,
        constants=constants,
        weights=weights,
        method="inherent",
        cost=1.0 + len(combinations),
    )


def _explain_one(linear_map: LinearMap, combination: Tensor) -> tuple[Row, Tensor, Tensor, Tensor]:
    row = linear_map.row_of(combination)
    wide = at_least_float32(row.weights.dtype)
    contributions = (row.weights.to(wide) * linear_map.encoded.to(wide)).sum(1)
    terms = combination * linear_map.logits
    return row, contributions, terms.sum(1), terms.abs().sum(1)
