"""Layer and group norm that are linear while explaining: the mean is a linear map, the variance is frozen.

As in the B-cos v2 release, arXiv 2306.10898. Statistics are computed in float32 at least;
the result has the dtype of the input, under autocast too, in both modes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcos_vit.layers.mode import at_least_float32, freeze, is_frozen


def standardise(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    """``(x - mean) / sqrt(var + eps)`` over ``axes``, with the variance frozen while explaining."""
    wide = x.to(at_least_float32(x.dtype))
    var, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
    return (wide - mean) * torch.rsqrt(freeze(var) + eps)


class LayerNorm(nn.LayerNorm):
    """Layer norm over the last axis of (..., D), with a frozen variance while explaining."""

    def __init__(self, width: int, *, eps: float = 1e-5, bias: bool = False) -> None:
        super().__init__(width, eps=eps, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if not is_frozen():
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).to(x.dtype)
        y = standardise(x, (-1,), self.eps) * self.weight
        return (y if self.bias is None else y + self.bias).to(x.dtype)


class GroupNorm(nn.GroupNorm):
    """Group norm of (B, C, H, W), by default one group over (C, H, W), with a frozen variance while explaining."""

    def __init__(self, channels: int, *, groups: int = 1, eps: float = 1e-5, bias: bool = False) -> None:
        super().__init__(groups, channels, eps=eps)
        if not bias:
            self.register_parameter("bias", None)  # torch's own bias= argument is too new to lean on

    def forward(self, x: Tensor) -> Tensor:
        if not is_frozen():
            return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)
        grouped = x.unflatten(1, (self.num_groups, -1))
        y = standardise(grouped, (2, 3, 4), self.eps).flatten(1, 2) * self.weight[:, None, None]
        return (y if self.bias is None else y + self.bias[:, None, None]).to(x.dtype)
