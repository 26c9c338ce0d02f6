"""The linear map of a prediction: one frozen forward pass, whose every row is one input-only backward pass away.

Explaining needs of a model no more than ``encode`` and ``forward_encoded``, and layers that freeze their weights.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from bcos_vit import checks
from bcos_vit.explanation.targets import Target, resolve
from bcos_vit.layers.mode import at_least_float32, recording
from bcos_vit.wrappers import unwrap


class Explainable(Protocol):
    """A model that encodes images itself and is dynamic linear in the encoding."""

    def encode(self, images: Tensor) -> Tensor: ...
    def forward_encoded(self, encoded: Tensor) -> Tensor: ...


class Row(NamedTuple):
    """One row of the map for every image, and what the constants added to its logit."""

    weights: Tensor
    """(B, C, H, W), in the precision of the model."""
    constants: dict[str, Tensor]
    """Name -> (B,), in float32 at least; in the order in which the forward pass added them."""


class LinearMap:
    """A batch of predictions, each collapsed to ``logits = W encoded + constants``. Made by :func:`collapse`.

    >>> import bcos_vit
    >>> model = bcos_vit.create_model("bcos_vit_digits", pretrained=True)
    >>> linear_map = bcos_vit.collapse(model, torch.rand(2, 3, 8, 8))
    >>> linear_map.rows(7).shape, linear_map.matrix().shape
    (torch.Size([2, 6, 8, 8]), torch.Size([2, 10, 6, 8, 8]))

    It holds the graph of one forward pass: drop it to free the memory.

    Attributes
    ----------
    logits
        (B, K), bias included, detached.
    encoded
        (B, C, H, W), what W multiplies, detached.
    """

    def __init__(self, encoded: Tensor, logits: Tensor, terms: list[tuple[str, Tensor]]) -> None:
        self._encoded = encoded
        self._logits = logits
        self._terms = terms
        self.encoded = encoded.detach()
        self.logits = logits.detach()

    def row_of(self, coefficients: Tensor) -> Row:
        """The row of any combination of logits, from one backward pass.

        Parameters
        ----------
        coefficients
            (B, K): for every image, the weights of the logits in what is explained.
        """
        leaves = [self._encoded, *(leaf for _, leaf in self._terms)]
        with torch.inference_mode(False):
            weights, *slopes = torch.autograd.grad(self._logits, leaves, coefficients, retain_graph=True)
        constants: dict[str, Tensor] = {}
        for (name, leaf), slope in zip(self._terms, slopes, strict=True):
            wide = at_least_float32(leaf.dtype)
            share = (slope.to(wide) * leaf.detach().to(wide)).flatten(1).sum(1)
            constants[name] = constants[name] + share if name in constants else share
        return Row(weights, constants)

    def rows(self, target: Target = None) -> Tensor:
        """Rows of the map, (B, C, H, W), or (B, T, C, H, W) for several targets per image.

        Raises as :func:`~bcos_vit.explanation.targets.resolve` does for a target that does not fit.
        """
        resolved = resolve(target, self.logits)
        rows = [self.row_of(single.coefficients(self.logits)).weights for single in resolved.singles()]
        return torch.stack(rows, dim=1) if resolved.several else rows[0]

    def matrix(self) -> Tensor:
        """The whole map, (B, K, C, H, W), at K backward passes: for small models and few classes."""
        batch, classes = self.logits.shape
        return self.rows(torch.arange(classes).expand(batch, classes))


def collapse(model: nn.Module, images: Tensor, *, check_values: bool = True) -> LinearMap:
    """Collapse a dynamic-linear model to one linear map per image.

    >>> import bcos_vit
    >>> model = bcos_vit.create_model("bcos_vit_digits", pretrained=True)
    >>> linear_map = bcos_vit.collapse(model, torch.rand(2, 3, 8, 8))
    >>> image = torch.einsum("bkchw,bchw->bk", linear_map.matrix(), linear_map.encoded)
    >>> torch.allclose(image + model.spec.bias, linear_map.logits, atol=1e-5)
    True

    Nothing is left behind: the caller's tensors keep ``requires_grad`` and ``.grad``, the model keeps its mode. Works
    inside ``torch.inference_mode`` and ``torch.no_grad``, in threads, and on compiled, DDP and Lightning wrappers.

    Parameters
    ----------
    model
        A B-cos model, or anything with ``encode`` and ``forward_encoded`` made of layers that freeze.
    images
        (B, 3, H, W) RGB in [0, 1], on the model's device.
    check_values
        Look for NaN and values outside [0, 1] first.

    Raises
    ------
    TypeError
        If the model is not dynamic linear, or no model at all.
    ValueError
        If the images do not fit, or the model would drop units at random.
    """
    inner = _explainable(model)
    checks.require_float(images, "images")
    if check_values:
        checks.check_values(images)
    with torch.inference_mode(False), torch.enable_grad():
        # An inference tensor cannot take part in a graph, not even where encode hands it through.
        given = images.clone() if images.is_inference() else images.detach()
        encoded = inner.encode(given).detach().requires_grad_()
        with recording(len(encoded)) as recorder:
            logits = inner.forward_encoded(encoded)
    return LinearMap(encoded, logits, recorder.terms)


_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def _explainable(model: nn.Module) -> Explainable:
    """The model inside compiled, DDP and Lightning wrappers, if it can be explained."""
    module = unwrap(model)
    if not (hasattr(module, "encode") and hasattr(module, "forward_encoded")):
        raise TypeError(
            f"{type(module).__name__} cannot be explained: it has no encode and forward_encoded; "
            "if it holds a model that has, pass that"
        )
    if not getattr(module, "dynamic_linear", True):
        raise TypeError(
            "this is a conventional model, not dynamic linear: it has no linear map to read off. Compare it with "
            "post-hoc methods (bcos_vit.attribution, in a later release) or explain a B-cos model"
        )
    if any(isinstance(m, _DROPOUT) and m.training and m.p > 0 for m in module.modules()):
        raise ValueError("the model drops units at random in training mode: call model.eval() before explaining it")
    if any(p.is_inference() for p in module.parameters()):
        raise ValueError(
            "the model's weights were made under torch.inference_mode and cannot be differentiated: build or load "
            "the model outside of it (explaining inside is fine)"
        )
    return cast(Explainable, module)
