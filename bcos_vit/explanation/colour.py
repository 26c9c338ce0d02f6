"""Rows of the linear map as colour images, as published with B-cos (arXiv 2205.10268; v2 release)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def render(weights: Tensor, contributions: Tensor, smooth: int | None, percentile: float) -> Tensor:
    """(..., 6, H, W) rows and (..., H, W) contributions -> (..., 4, H, W) RGBA in [0, 1].

    Colour: the positive part of each pixel's row, where r and 1-r vote on red and so on. Opacity: the row's L2 norm
    where the pixel contributes positively, averaged over a box of ``smooth`` pixels (zero padding counts), over its
    ``percentile`` per image.
    """
    if smooth is None:
        smooth = usual_box(*weights.shape[-2:])
    if not isinstance(smooth, int) or smooth < 0 or (smooth and smooth % 2 == 0):
        raise ValueError(f"smooth must be 0 or an odd number of pixels, found {smooth}")
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must lie in (0, 100], found {percentile}")
    lead, (height, width) = weights.shape[:-3], weights.shape[-2:]
    w = weights.reshape(-1, 6, height, width)
    w = w.to(torch.promote_types(w.dtype, torch.float32))
    positive, faint = w.clamp(min=0), 1e-12 * w.abs().amax(1, keepdim=True) + 1e-24
    rgb = positive[:, :3] / (positive[:, :3] + positive[:, 3:] + faint)
    alpha = w.square().sum(1).sqrt_()  # a norm over channels, which torch's own takes one by one
    alpha.masked_fill_(contributions.reshape(alpha.shape) < 0, 1e-12)
    if smooth:
        alpha = _box(height, smooth, alpha) @ alpha @ _box(width, smooth, alpha)
    opaque = _quantile(alpha.flatten(1), percentile / 100)[:, None, None]
    alpha = torch.where(opaque > 0, alpha / opaque, 0.0).clamp_(0, 1)  # an all-zero row shows nothing
    return torch.cat((rgb, alpha[:, None]), dim=1).reshape(*lead, 4, height, width)


def usual_box(height: int, width: int) -> int:
    """The odd number nearest 15 min(height, width) / 224, at least 1, the larger of two: 15 as published at 224."""
    return 2 * (15 * min(height, width) // 448) + 1


def _box(size: int, side: int, like: Tensor) -> Tensor:
    """The mean over ``side`` neighbours as a matrix, (size, size): far faster than pooling single channels."""
    place = torch.arange(size, device=like.device)
    return ((place[:, None] - place).abs() <= side // 2).to(like.dtype) / side


def _quantile(rows: Tensor, q: float) -> Tensor:
    """``torch.quantile(rows, q, dim=1)`` of (B, n) by looking at the largest values only, and for any n."""
    rank = q * (rows.shape[1] - 1)
    below = math.floor(rank)
    top = rows.topk(rows.shape[1] - below, dim=1).values
    return torch.lerp(top[:, -1], top[:, max(-2, -top.shape[1])], rank - below)
