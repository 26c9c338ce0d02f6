"""The inherent explanation: the rows of the model's own linear map, with their ledger."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bcos_vit.explanation.linear_map import LinearMap, collapse
from bcos_vit.explanation.result import Explanation
from bcos_vit.explanation.targets import Resolved, Target, resolve
from bcos_vit.layers.mode import at_least_float32


def explain(model: nn.Module, images: Tensor, target: Target = None, *, check_values: bool = True) -> Explanation:
    """Explain predictions exactly: one forward pass, and one input-only backward pass per target.

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
    with torch.inference_mode(False), torch.no_grad():  # ordinary tensors, wherever the caller is
        resolved = resolve(target, linear_map.logits)
        shown = images.detach().clone()  # the caller may use the memory again
        parts = [_explain_one(linear_map, shown, single) for single in resolved.singles()]
        return Explanation.stack(parts) if resolved.several else parts[0]


def _explain_one(linear_map: LinearMap, images: Tensor, target: Resolved) -> Explanation:
    coefficients = target.coefficients(linear_map.logits)
    weights, constants = linear_map.row_of(coefficients)
    wide = at_least_float32(weights.dtype)
    terms = coefficients * linear_map.logits
    logit = terms.sum(1)
    return Explanation(
        images=images,
        target=target.classes,
        against=target.against,
        logit=logit,
        probability=logit.sigmoid() if target.against is None else None,
        contributions=(weights.to(wide) * linear_map.encoded.to(wide)).sum(1),
        magnitude=terms.abs().sum(1),
        constants=constants,
        weights=weights,
        cost=2.0,
    )
