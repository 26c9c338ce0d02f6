"""The linear maps inside B-cos layers, dense and convolutional: applied, measured and transposed.

A B-cos layer needs of its linear map the map, the norm of what each output sees, and the transposes of both.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from bcos_vit.layers.mode import at_least_float32

ROW_EPS = 1e-12
"""Below which a row counts as having this norm, so that a row of zeros answers with zero."""


class Map(Protocol):
    """A linear map ``x, w -> l``, the norm of what each output sees, and the transposes of both.

    The map is a method with a name, since torch 2.8 compiles no call of a named tuple.
    """

    @property
    def axis(self) -> int: ...
    def product(self, x: Tensor, w: Tensor) -> Tensor: ...
    def norm(self, x: Tensor) -> Tensor: ...
    def row_norm(self, w: Tensor) -> Tensor: ...
    def input_gradient(self, g: Tensor, shape: torch.Size, w: Tensor) -> Tensor: ...
    def weight_gradient(self, g: Tensor, x: Tensor, w: Tensor) -> Tensor: ...
    def add_norm_gradient(self, dx: Tensor, g: Tensor, x: Tensor) -> Tensor: ...
    def per_unit(self, n: Tensor, units: int) -> Tensor: ...
    def sum_units(self, t: Tensor) -> Tensor: ...


def transposed_convolution(
    g: Tensor, shape: torch.Size, w: Tensor, stride: tuple[int, int], padding: tuple[int, int], groups: int
) -> Tensor:
    """The gradient of a convolution by its input of ``shape``; unlike torch's own, other formats know the operation."""
    geometry = zip(shape[-2:], g.shape[-2:], stride, padding, w.shape[-2:], strict=True)
    rest = tuple(size - ((out - 1) * step - 2 * pad + side) for size, out, step, pad, side in geometry)
    return F.conv_transpose2d(g, w, None, stride, padding, rest, groups)


class Dense(NamedTuple):
    """(..., I) -> (..., O) with weight (O, I); the norm is (..., 1)."""

    axis: int = -1

    def product(self, x: Tensor, w: Tensor) -> Tensor:
        return F.linear(x, w)

    def norm(self, x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=at_least_float32(x.dtype)) + 1e-12

    def row_norm(self, w: Tensor) -> Tensor:
        return torch.linalg.vector_norm(w, dim=1, dtype=at_least_float32(w.dtype)).clamp_min(ROW_EPS)

    def input_gradient(self, g: Tensor, shape: torch.Size, w: Tensor) -> Tensor:
        return g @ w

    def weight_gradient(self, g: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return g.reshape(-1, g.shape[-1]).T @ x.reshape(-1, x.shape[-1])

    def add_norm_gradient(self, dx: Tensor, g: Tensor, x: Tensor) -> Tensor:
        return dx.addcmul(x, g.to(x.dtype))

    def per_unit(self, n: Tensor, units: int) -> Tensor:
        return n

    def sum_units(self, t: Tensor) -> Tensor:
        return t.sum(-1, keepdim=True)


class Convolution(NamedTuple):
    """(B, C, H, W) -> (B, O, H', W') with weight (O, C/groups, kh, kw) and zero padding; the norm is (B, G, H', W')."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    groups: int
    kernel: tuple[int, int]
    axis: int = 1

    def product(self, x: Tensor, w: Tensor) -> Tensor:
        return F.conv2d(x, w, None, self.stride, self.padding, 1, self.groups)

    def _ones(self, like: Tensor) -> Tensor:
        return like.new_ones(self.groups, 1, *self.kernel)

    def norm(self, x: Tensor) -> Tensor:
        wide = x.to(at_least_float32(x.dtype))
        squares = wide.square().unflatten(1, (self.groups, -1)).sum(2)
        with torch.autocast(x.device.type, enabled=False):  # which would take the squares back to low precision
            sums = F.conv2d(squares, self._ones(squares), None, self.stride, self.padding, 1, self.groups)
        return (sums + 1e-6).sqrt()

    def row_norm(self, w: Tensor) -> Tensor:
        return Dense().row_norm(w.flatten(1))[:, None, None]

    def input_gradient(self, g: Tensor, shape: torch.Size, w: Tensor) -> Tensor:
        return transposed_convolution(g, shape, w, self.stride, self.padding, self.groups)

    def weight_gradient(self, g: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return conv2d_weight(x, w.shape, g, self.stride, self.padding, 1, self.groups)

    def add_norm_gradient(self, dx: Tensor, g: Tensor, x: Tensor) -> Tensor:
        spread = self.input_gradient(g, x.shape, self._ones(g))
        return dx.addcmul(x, self.per_unit(spread, x.shape[1]).to(x.dtype))

    def per_unit(self, n: Tensor, units: int) -> Tensor:
        return n if self.groups == 1 else n.repeat_interleave(units // self.groups, dim=1)

    def sum_units(self, t: Tensor) -> Tensor:
        return t.unflatten(1, (self.groups, -1)).sum(2)
