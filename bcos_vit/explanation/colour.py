"""Rows of the linear map as colour images, as published with B-cos (arXiv 2205.10268; v2 release)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def render(weights: Tensor, contributions: Tensor, smooth: int, percentile: float) -> Tensor:
    """(..., 6, H, W) rows and (..., H, W) contributions -> (..., 4, H, W) RGBA in [0, 1].

    Colour: the positive part of each pixel's row, where r and 1-r vote on red and so on. Opacity: the row's L2 norm
    where the pixel contributes positively, averaged over a box of ``smooth`` pixels (zero padding counts), over its
    ``percentile`` per image.
    """
    if not isinstance(smooth, int) or smooth < 0 or (smooth and smooth % 2 == 0):
        raise ValueError(f"smooth must be 0 or an odd number of pixels, found {smooth}")
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must lie in (0, 100], found {percentile}")
    lead, (height, width) = weights.shape[:-3], weights.shape[-2:]
    w = weights.reshape(-1, 6, height, width)
    w = w.to(torch.promote_types(w.dtype, torch.float32))
    positive = (w / (w.abs().amax(1, keepdim=True) + 1e-12)).clamp(min=0)
    rgb = positive[:, :3] / (positive[:, :3] + positive[:, 3:] + 1e-12)
    alpha = torch.linalg.vector_norm(w, dim=1, keepdim=True)
    alpha = torch.where(contributions.reshape(-1, 1, height, width) < 0, 1e-12, alpha)
    if smooth:
        alpha = F.avg_pool2d(alpha, smooth, stride=1, padding=smooth // 2)
    # One image at a time: torch.quantile takes 16 million values at most.
    opaque = torch.empty_like(alpha[:, :, :1, :1])
    for image, level in zip(alpha, opaque, strict=True):
        level.fill_(image.quantile(percentile / 100))
    alpha = torch.where(opaque > 0, alpha / opaque, 0.0).clamp(0, 1)  # an all-zero row shows nothing
    return torch.cat((rgb, alpha), dim=1).reshape(*lead, 4, height, width)
