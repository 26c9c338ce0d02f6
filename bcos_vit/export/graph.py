"""Prediction and explanation traced into one graph of tensor operations, forward and backward, for any batch size.

An inherent explanation is ordinary autograd over frozen weights, so that it can be traced with the prediction; nothing
of autograd is left in the graph.
"""

from __future__ import annotations

import copy
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx

from bcos_vit.explanation.inherent import explain_row
from bcos_vit.explanation.linear_map import collapse
from bcos_vit.explanation.targets import resolve, single
from bcos_vit.export.certificate import compare, random_images
from bcos_vit.layers.maps import transposed_convolution
from bcos_vit.models import ViT
from bcos_vit.models.vit import require_vit

Targets = Literal["predicted", "input"]
PREDICTIONS = ("logits", "target")
EXPLANATIONS = ("contributions", "position", "bias", "residual")
TRACED = 2
"""Images while tracing; 0 and 1 would be taken for constants."""


class Predicting(nn.Module):
    """Image (N, 3, H, W) -> logits (N, K) and predicted class (N,): all that a conventional model can say."""

    def __init__(self, model: ViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            logits = self.model(image.to(_dtype(self.model))).to(image.dtype)
        return logits, logits.argmax(1)


class Explaining(nn.Module):
    """Image (N, 3, H, W), and perhaps target (N,), -> :func:`output_names`, each in the dtype of the image.

    A target that is no class makes everything that is said about its image NaN, since a graph cannot raise.
    """

    def __init__(self, model: ViT, weights: bool) -> None:
        super().__init__()
        self.model = model
        self.weights = weights

    def forward(self, image: Tensor, target: Tensor | None = None) -> tuple[Tensor, ...]:
        images = image.to(_dtype(self.model))
        linear_map = collapse(self.model, images, check_values=False)
        with torch.no_grad():
            logits = linear_map.logits
            known: Tensor | None = None
            if target is None:
                chosen = resolve(None, logits)
            else:
                known = (target >= 0) & (target < logits.shape[1])
                chosen = single(torch.where(known, target, 0), logits)
            row = linear_map.row_of(chosen.coefficients, keep_graph=False)
            e = explain_row(linear_map, images, chosen, row, None)
            none = torch.zeros_like(e.image)
            position, bias = (e.constants.get(name, none) for name in ("position", "bias"))
            said = [logits, e.contributions, position, bias, e.residual, *([row.weights] if self.weights else [])]
            logits, *others = (_nan_unless(known, t.to(image.dtype)) for t in said)
            return logits, (e.target if target is None else target).clone(), *others


def _nan_unless(known: Tensor | None, t: Tensor) -> Tensor:
    """``t`` (N, ...) with NaN for images that are not ``known`` (N,); None for a batch of which all are."""
    return t if known is None else torch.where(known.view(-1, *[1] * (t.dim() - 1)), t, torch.nan)


def output_names(model: ViT, weights: bool) -> tuple[str, ...]:
    """What the graph of ``model`` returns, in that order."""
    return (*PREDICTIONS, *((*EXPLANATIONS, *(("weights",) if weights else ())) if model.dynamic_linear else ()))


@torch.inference_mode(False)  # which would make weights that cannot be differentiated
def to_program(model: nn.Module, targets: Targets = "predicted", weights: bool = False) -> ExportedProgram:
    """Trace prediction and explanation of a model into a :class:`torch.export.ExportedProgram`.

    Inputs are ``image`` (N, 3, H, W), float32 in [0, 1], for any N and the size of the spec, and with
    ``targets="input"`` also ``target`` (N,), int64. Outputs are ``logits`` (N, K), ``target`` (N,),
    ``contributions`` (N, H, W), and of the ledger ``position``, ``bias`` and ``residual`` (N,); position is zero
    where a model adds none. With ``weights`` also the rows, (N, 6, H, W).

    A target that is no class, below 0 or not below K, makes every number about its image NaN, the logits too, and
    leaves the other images of the batch as they are.

    A conventional model has no linear map to read off: its program gives ``logits`` and ``target``. The model
    itself stays as it is.

    Raises
    ------
    ValueError
        For other targets, or targets or weights asked of a conventional model.
    TypeError
        If it is not a model of this project.
    ArithmeticError
        If the program of a float32 model is further than rounding from it on random images
        (:meth:`~bcos_vit.export.certificate.Comparison.require_exact`).
    """
    vit = require_vit(model)
    if targets not in get_args(Targets):
        raise ValueError(f"targets must be 'predicted' or 'input', found {targets!r}")
    if not vit.dynamic_linear and (weights or targets != "predicted"):
        raise ValueError(
            "a conventional model has no linear map to read off, so that its file can predict but not explain: "
            "leave targets and weights as they are, or export a B-cos model"
        )
    held = copy.deepcopy(vit).eval().requires_grad_(False)  # the trace makes attributes of its parameters
    size, device = vit.spec.image_size, next(vit.parameters()).device
    inputs: tuple[Tensor, ...] = (torch.full((TRACED, 3, size, size), 0.5, device=device),)
    if targets == "input":
        inputs += (torch.zeros(TRACED, dtype=torch.long, device=device),)
    explaining = Explaining(held, weights) if vit.dynamic_linear else Predicting(held)
    table = {torch.ops.aten.convolution_backward.default: _convolution_backward}
    # A surrounding autocast would be traced as casts; and backward is traced in this thread, as other threads know of
    # no trace.
    with torch.autocast(device.type, enabled=False), torch.autograd.set_multithreading_enabled(False):
        traced = make_fx(explaining, table, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*inputs)
    batch = Dim("batch", min=1)
    program = torch.export.export(traced, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    if _dtype(vit) == torch.float32:
        run = program.module()
        names = output_names(vit, weights)

        def by_name(images: Tensor, target: Tensor | None) -> dict[str, Tensor]:
            return dict(zip(names, run(images, *(() if target is None else (target,))), strict=True))

        images = random_images(vit)
        found = compare(vit, by_name, images, turns(images, vit.num_classes) if targets == "input" else None)
        found.require_exact("the program differs from the model on random images")
        found.require_nan("of the program, on random images:")
    return program


def turns(images: Tensor, num_classes: int) -> Tensor:
    """A target for each of ``images``: the classes in turn, so that more than predicted ones are tried."""
    return torch.arange(images.shape[0], device=images.device) % num_classes


def _convolution_backward(
    g: Tensor,
    x: Tensor,
    w: Tensor,
    bias_sizes: Any,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    output_mask: list[bool],
) -> tuple[Tensor | None, ...]:
    """The gradient by the input of our convolutions as a transposed convolution, which other formats know."""
    assert not transposed
    assert output_mask == [True, False, False]
    assert dilation == [1, 1]
    return transposed_convolution(g, x.shape, w, (stride[0], stride[1]), (padding[0], padding[1]), groups), None, None


def _dtype(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype
