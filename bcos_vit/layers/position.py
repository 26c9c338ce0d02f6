"""Where a token is: the additive sine-cosine code of the published models, and rotary positions (RoPE).

Both are computed from the actual grid, so any image that fits will do. The additive code is a constant and has a
line of its own in the ledger; RoPE turns queries and keys only, which are frozen, so nothing is added to the image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bcos_vit.layers.mode import constant


class Rotation(NamedTuple):
    """Cosine and sine of every token's angles, each (N, 2, d/4): row angles, then column angles."""

    cos: Tensor
    sin: Tensor


def sincos_code(height: int, width: int, dim: int, like: Tensor) -> Tensor:
    """Two-dimensional sine-cosine code, (height * width, dim), in the dtype and on the device of ``like``.

    [sin(x w), cos(x w), sin(y w), cos(y w)] with w_j = 10000^(-j / (dim/4 - 1)), j = 0 .. dim/4 - 1
    ("Better plain ViT baselines", arXiv 2205.01580). Computed in torch's default dtype and then cast, as the
    reference does, so that weights trained with it meet the same numbers.
    """
    quarter = dim // 4
    omega = 1.0 / 10_000 ** (torch.arange(quarter, device=like.device) / (quarter - 1))
    y, x = torch.meshgrid(
        torch.arange(height, device=like.device), torch.arange(width, device=like.device), indexing="ij"
    )
    x, y = x.flatten()[:, None] * omega, y.flatten()[:, None] * omega
    return torch.cat((x.sin(), x.cos(), y.sin(), y.cos()), dim=1).to(like.dtype)


def rotation(height: int, width: int, head_dim: int, like: Tensor) -> Rotation:
    """Angles of rotary positions on a grid: ``index * 100^(-j / (d/4))`` for rows and columns, j = 0 .. d/4 - 1.

    RoPE for images in the axial form (arXiv 2104.09864, 2403.13298): the first half of a head's dimensions turns
    with the row, the second with the column.
    """
    quarter = head_dim // 4
    dtype = torch.promote_types(like.dtype, torch.float32)
    frequency = 100.0 ** (-torch.arange(quarter, device=like.device, dtype=dtype) / quarter)
    rows = torch.arange(height, device=like.device, dtype=dtype).repeat_interleave(width)
    columns = torch.arange(width, device=like.device, dtype=dtype).repeat(height)
    angle = torch.stack((rows, columns), dim=1)[:, :, None] * frequency
    return Rotation(angle.cos().to(like.dtype), angle.sin().to(like.dtype))


def rotate(t: Tensor, by: Rotation) -> Tensor:
    """Turn queries or keys (..., N, d): within each half of d, dimensions j and j + d/4 are one plane."""
    first, second = t.unflatten(-1, (2, 2, -1)).unbind(-2)  # each (..., N, 2, d/4)
    turned = torch.stack((first * by.cos - second * by.sin, second * by.cos + first * by.sin), dim=-2)
    return turned.flatten(-3)


class Unplaced(nn.Module):
    """Tokens as they are, (B, h, w, D) -> (B, N, D), and no rotation: they know nothing of their place."""

    def forward(self, x: Tensor) -> tuple[Tensor, Rotation | None]:
        return x.flatten(1, 2), None


class Added(Unplaced):
    """Tokens with the additive code, (B, h, w, D) -> (B, N, D), and no rotation."""

    def forward(self, x: Tensor) -> tuple[Tensor, Rotation | None]:
        code = sincos_code(x.shape[1], x.shape[2], x.shape[3], like=x)
        return x.flatten(1, 2) + constant("position", code), None


class Rotary(Unplaced):
    """Tokens as they are, (B, h, w, D) -> (B, N, D), and by what to turn queries and keys of heads with d channels."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim

    def forward(self, x: Tensor) -> tuple[Tensor, Rotation | None]:
        return x.flatten(1, 2), rotation(x.shape[1], x.shape[2], self.head_dim, like=x)

    def extra_repr(self) -> str:
        return f"head_dim={self.head_dim}"


def placing(position: str, head_dim: int) -> nn.Module:
    """What tells tokens where they are before the blocks, by the word of the spec; a learned prior is in the blocks."""
    return Added() if position == "sincos" else Rotary(head_dim) if position == "rope" else Unplaced()
