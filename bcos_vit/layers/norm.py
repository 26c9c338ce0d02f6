"""Layer and group norm that are linear while explaining: the mean is a linear map, the variance is frozen.

As in the B-cos v2 release, arXiv 2306.10898. Statistics are computed in float32 at least;
the result has the dtype of the input, under autocast too, in both modes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcos_vit.layers.functions import with_signature
from bcos_vit.layers.mode import at_least_float32, fixed, is_frozen


@with_signature
class FrozenNorm(torch.autograd.Function):
    """``weight * (x - mean) / sqrt(var + eps)`` with the variance held still: a linear map and its transpose.

    Layer norm over the last axis with ``groups`` None and ``weight`` (D,), else group norm of (B, C, H, W) with
    ``weight`` (C, 1, 1). Both come from torch's own kernels, which hand out their statistics.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, groups: int | None, eps: float) -> tuple[Tensor, Tensor]:
        if groups is None:
            y, _, rstd = torch.native_layer_norm(x, weight.shape, weight, None, eps)
            return y, rstd
        batch, channels, height, width = x.shape
        size = (batch, channels, height * width, groups)
        y, _, rstd = torch.native_group_norm(x.contiguous(), weight.flatten(), None, *size, eps)
        return y, rstd.unsqueeze(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, ctx.groups, _ = inputs
        rstd = output[1]
        ctx.mark_non_differentiable(rstd)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weight, rstd, *((x,) if ctx.needs_input_grad[1] else ()))

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if g is None:
            return None, None, None, None
        weight, rstd, *x = ctx.saved_tensors

        def standardise(t: Tensor) -> Tensor:
            rows = t if ctx.groups is None else t.unflatten(1, (ctx.groups, -1)).flatten(2)
            return ((rows - rows.mean(-1, keepdim=True)) * rstd).view_as(t)

        dx = standardise(g * weight) if ctx.needs_input_grad[0] else None
        dw = (g * standardise(x[0])).sum_to_size(weight.shape) if x else None
        return dx, dw, None, None


def frozen_norm(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int | None, eps: float) -> Tensor:
    """The norm while explaining, computed in float32 at least; ``weight`` and ``bias`` spread over ``x``."""
    wide = at_least_float32(x.dtype)
    y: Tensor = FrozenNorm.apply(x.to(wide), fixed(weight).to(wide), groups, eps)[0]
    return (y if bias is None else y + bias).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """Layer norm over the last axis of (..., D), with a frozen variance while explaining."""

    def __init__(self, width: int, *, eps: float = 1e-5, bias: bool = False) -> None:
        super().__init__(width, eps=eps, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if is_frozen():
            return frozen_norm(x, self.weight, self.bias, None, self.eps)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).to(x.dtype)


class GroupNorm(nn.GroupNorm):
    """Group norm of (B, C, H, W), by default one group over (C, H, W), with a frozen variance while explaining."""

    def __init__(self, channels: int, *, groups: int = 1, eps: float = 1e-5, bias: bool = False) -> None:
        super().__init__(groups, channels, eps=eps)
        if not bias:
            self.register_parameter("bias", None)  # torch's own bias= argument is too new to lean on

    def forward(self, x: Tensor) -> Tensor:
        if is_frozen():
            bias = None if self.bias is None else self.bias[:, None, None]
            return frozen_norm(x, self.weight[:, None, None], bias, self.num_groups, self.eps)
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)
