"""The most probable classes of a batch of images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bcos_vit import checks
from bcos_vit.models.vit import require_vit


class Prediction(NamedTuple):
    """The k most probable classes of every image, most probable first.

    >>> from bcos_vit import create_model
    >>> prediction = predict(create_model("bcos_vit_digits"), torch.rand(2, 3, 8, 8), k=3)
    >>> prediction.classes.shape, bool((prediction.probabilities.diff() <= 0).all())
    (torch.Size([2, 3]), True)
    """

    names: list[list[str]]
    """B lists of k class names, or of class numbers where the model has no names."""
    classes: Tensor
    """(B, k) class numbers."""
    probabilities: Tensor
    """(B, k) in [0, 1]: sigmoid (classes are judged one by one) or softmax, as :attr:`ViTSpec.outputs` says."""
    logits: Tensor
    """(B, k), bias included."""


def predict(model: nn.Module, images: Tensor, k: int = 5, *, check_values: bool = True) -> Prediction:
    """Predict the ``k`` most probable classes (all of them, where the model has fewer).

    >>> from bcos_vit import create_model
    >>> from bcos_vit.data import Digits
    >>> model = create_model("bcos_vit_digits", pretrained=True)
    >>> image, label = Digits("test")[0]
    >>> predict(model, image[None], k=2).names[0][0] == str(label)
    True

    Parameters
    ----------
    model
        A :class:`ViT`, wrapped or not.
    images
        (B, 3, H, W) RGB in [0, 1].
    check_values
        Look for NaN and values outside [0, 1] first.

    Raises
    ------
    ValueError
        If ``k`` is below 1, or the images do not fit the model or hold other values than RGB in [0, 1].
    """
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"k must be a whole number of at least 1, found {k}")
    vit = require_vit(model)
    if check_values and isinstance(images, Tensor) and images.numel():
        checks.check_values(images)
    with torch.no_grad():
        logits = model(images)
        top = logits.topk(min(k, logits.shape[1]))
        probabilities = vit.probabilities(logits).gather(1, top.indices)
    names = vit.class_names
    labels = [[str(c) if names is None else names[c] for c in row] for row in top.indices.tolist()]
    return Prediction(labels, top.indices, probabilities, top.values)
