"""The linear map of a prediction: one frozen forward pass, whose every row is one input-only backward pass away.

Explaining needs of a model no more than ``encode`` and ``forward_encoded``, and layers that freeze their weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.func import vmap

from bcos_vit import checks
from bcos_vit.checks import nearest
from bcos_vit.explanation.targets import Target, Unit, resolve
from bcos_vit.layers.mode import Recorder, Stage, at_least_float32, recording
from bcos_vit.layers.precision import ieee_float32
from bcos_vit.wrappers import unwrap

ROWS_AT_ONCE = {"cpu": 16}
"""Rows of all images and targets in one backward pass on a CPU, whose caches would not hold more."""
MOST_ROWS = 64
"""The same on other devices: enough to be fast, few enough to bound the memory."""


class Explainable(Protocol):
    """A model that encodes images itself and is dynamic linear in the encoding."""

    def encode(self, images: Tensor) -> Tensor: ...
    def forward_encoded(self, encoded: Tensor) -> Tensor: ...


class Row(NamedTuple):
    """A row of the map for every image, and what the constants added. With T targets per image, T follows B."""

    weights: Tensor
    """(B, C, H, W), or at a stage (B, N, D), in the precision of the model."""
    terms: tuple[tuple[str, Tensor], ...]
    """Names and (B,), in float32 at least, in the order in which the forward pass added them."""

    @property
    def constants(self) -> dict[str, Tensor]:
        """Name -> (B,)."""
        total: dict[str, Tensor] = {}
        for name, share in self.terms:
            total[name] = total[name] + share if name in total else share
        return total


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
    stages
        Name -> what the forward pass went through, if it was asked to keep that.
    """

    def __init__(self, encoded: Tensor, logits: Tensor, recorder: Recorder) -> None:
        self._encoded = encoded
        self.graph_logits = logits
        self._terms = recorder.terms
        self.stages = recorder.stages
        self.encoded = encoded.detach()
        self.logits = logits.detach()

    def row_of(self, coefficients: Tensor, at: str | None = None, *, keep_graph: bool = True) -> Row:
        """The row of any combination of logits, from one backward pass.

        Parameters
        ----------
        coefficients
            (B, K): for every image, the weights of the logits in what is explained; or (B, T, K).
        at
            A stage to whose tokens the row belongs, instead of the encoded image.
        keep_graph
            Whether another row will be asked for. Without, backward frees its memory as it goes.
        """
        if at is None:
            return self._row(self.graph_logits, coefficients, self._encoded, self._terms, keep_graph)
        stage, shape = self.stage(at), self.tokens(at).shape
        row = self._row(self.graph_logits, coefficients, stage.value, self._terms[stage.constants :], keep_graph)
        return row._replace(weights=row.weights.reshape(*coefficients.shape[:-1], *shape[1:]))

    def row_with_stages(self, coefficients: Tensor, names: Sequence[str]) -> tuple[Row, list[Tensor]]:
        """The row of a combination of logits, (B, K), and those at several stages, from one backward pass."""
        values = [self.stage(name).value for name in names]
        leaves = [self._encoded, *(leaf for _, leaf in self._terms), *values]
        weights, *slopes = self._backward(self.graph_logits, coefficients, leaves, True)
        count = len(self._terms)
        return Row(weights, self._shares(self._terms, slopes[:count])), slopes[count:]

    def unit(self, unit: Unit) -> tuple[Tensor, Row]:
        """The value of an inner unit, (B,), detached, and its row by the encoded image.

        Raises ``ValueError`` for a stage, channel or token that there is not.
        """
        stage = self.stage(unit.stage)
        value = stage.value.detach().unsqueeze(1) if stage.value.dim() == 2 else self.tokens(unit.stage)
        if (unit.token is None) != (stage.value.dim() == 2):
            need = "a unit there needs a token" if unit.token is None else "it has no tokens but one vector an image"
            raise ValueError(f"stage {unit.stage!r} has shape {tuple(stage.value.shape)}: {need}")
        token = 0 if unit.token is None else unit.token
        for what, number, count in (("token", token, value.shape[1]), ("channel", unit.channel, value.shape[2])):
            if not 0 <= number < count:
                raise ValueError(f"{what} {number} is out of range at {unit.stage}: there are 0 to {count - 1}")
        direction = torch.zeros_like(value)
        direction[:, token, unit.channel] = 1
        terms = self._terms[: stage.constants]
        row = self._row(stage.value, direction.view(stage.value.shape), self._encoded, terms, True)
        return value[:, token, unit.channel].clone(), row

    def stage(self, name: str) -> Stage:
        """The stage of that name; ``ValueError`` if there is none."""
        if name not in self.stages:
            near = nearest(str(name), self.stages) if self.stages else ": the model names none, or none were kept"
            raise ValueError(f"no stage is named {name!r}{near}")
        return self.stages[name]

    def terms_after(self, stage: Stage) -> list[Tensor]:
        """The constants that were added after a stage, with their graph."""
        return [leaf for _, leaf in self._terms[stage.constants :]]

    def tokens(self, name: str) -> Tensor:
        """(B, N, D), the tokens of a stage, detached; ``ValueError`` if there is no such stage, or it has no tokens."""
        value = self.stage(name).value.detach()
        if value.dim() == 2:
            raise ValueError(f"stage {name!r} has no tokens but one vector an image")
        return value.flatten(1, -2)

    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of the tokens."""
        height, width = self.stage("tokens").value.shape[1:3]
        return height, width

    def grid(self, tokens: Tensor) -> Tensor:
        """Tokens (B, ..., N, D) -> (B, ..., D, h, w), as they lie in the image."""
        return tokens.unflatten(-2, self.grid_size()).movedim(-1, -3)

    def rows(self, target: Target = None) -> Tensor:
        """Rows of the map, (B, C, H, W), or (B, T, C, H, W) for several targets per image.

        Raises as :func:`~bcos_vit.explanation.targets.resolve` does for a target that does not fit.
        """
        return self.row_of(resolve(target, self.logits).coefficients).weights

    def matrix(self) -> Tensor:
        """The whole map, (B, K, C, H, W), at K backward passes: for small models and few classes."""
        batch, classes = self.logits.shape
        return self.rows(torch.arange(classes).expand(batch, classes))

    def _row(
        self, output: Tensor, direction: Tensor, source: Tensor, terms: list[tuple[str, Tensor]], keep_graph: bool
    ) -> Row:
        """The row of ``output`` along ``direction`` by ``source``, with the constants ``terms`` on the way."""
        weights, *slopes = self._backward(output, direction, [source, *(leaf for _, leaf in terms)], keep_graph)
        return Row(weights, self._shares(terms, slopes))

    def _backward(
        self, output: Tensor, direction: Tensor, leaves: Sequence[Tensor], keep_graph: bool
    ) -> tuple[Tensor, ...]:
        """Gradients along ``direction``, of the shape of ``output`` or with T after B."""
        several = direction.dim() > output.dim()

        def backward(g: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(output, leaves, g, retain_graph=keep_graph or several)

        with torch.inference_mode(False), ieee_float32():
            if not several:
                return backward(direction)
            batch = output.shape[0]
            if not isinstance(batch, int):  # a symbol, in a trace for any number of images, which vmap cannot handle
                return tuple(torch.stack(of_all, 1) for of_all in zip(*map(backward, direction.unbind(1)), strict=True))
            at_once = max(1, ROWS_AT_ONCE.get(output.device.type, MOST_ROWS) // max(1, batch))
            found: tuple[Tensor, ...] = vmap(backward, in_dims=1, out_dims=1, chunk_size=at_once)(direction)
            return found

    def _shares(self, terms: list[tuple[str, Tensor]], slopes: Sequence[Tensor]) -> tuple[tuple[str, Tensor], ...]:
        shares = []
        for (name, leaf), slope in zip(terms, slopes, strict=True):
            several = slope.dim() > leaf.dim()
            wide = at_least_float32(leaf.dtype)
            term = leaf.detach().to(wide)
            product = slope.to(wide) * (term.unsqueeze(1) if several else term)
            shares.append((name, product.flatten(2 if several else 1).sum(-1)))
        return tuple(shares)


def collapse(model: nn.Module, images: Tensor, *, check_values: bool = True, stages: bool = False) -> LinearMap:
    """Collapse a dynamic-linear model to one linear map per image.

    >>> import bcos_vit
    >>> model = bcos_vit.create_model("bcos_vit_digits", pretrained=True)
    >>> linear_map = bcos_vit.collapse(model, torch.rand(2, 3, 8, 8))
    >>> image = torch.einsum("bkchw,bchw->bk", linear_map.matrix(), linear_map.encoded)
    >>> torch.allclose(image + model.spec.bias, linear_map.logits, atol=1e-5)
    True

    Nothing is left behind: the caller's tensors keep ``requires_grad`` and ``.grad``, the model keeps its mode. Works
    inside ``torch.inference_mode`` and ``torch.no_grad``, in threads, and on compiled, DDP and Lightning wrappers. Of
    TF32 and the like nothing is seen in it: products of float32 are IEEE arithmetic here, and in every row.

    Parameters
    ----------
    model
        A B-cos model, or anything with ``encode`` and ``forward_encoded`` made of layers that freeze.
    images
        (B, 3, H, W) RGB in [0, 1], on the model's device.
    check_values
        Look for NaN and values outside [0, 1] first.
    stages
        Keep the values on the way, too, for rows at or of them.

    Raises
    ------
    TypeError
        If the model is not dynamic linear, or no model at all.
    ValueError
        If the images do not fit, or the model would drop units at random.
    """
    inner = explainable(model)
    checks.require_float(images, "images")
    if check_values:
        checks.check_values(images)
    with torch.inference_mode(False), torch.enable_grad(), ieee_float32():
        # An inference tensor cannot take part in a graph, not even where encode hands it through.
        given = images.clone() if images.is_inference() else images.detach()
        encoded = inner.encode(given).detach().requires_grad_()
        with recording(encoded.shape[0], staged=stages) as recorder:  # not len(), which a trace would fix
            logits = inner.forward_encoded(encoded)
    return LinearMap(encoded, logits, recorder)


_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def explainable(model: nn.Module) -> Explainable:
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
    for part in module.modules():
        if isinstance(part, _DROPOUT) and part.training and part.p > 0:
            raise ValueError("the model drops units at random in training mode: call model.eval() before explaining it")
        if any(weight is not None and weight.is_inference() for weight in part._parameters.values()):
            raise ValueError(
                "the model's weights were made under torch.inference_mode and cannot be differentiated: build or load "
                "the model outside of it (explaining inside is fine)"
            )
    return cast(Explainable, module)
