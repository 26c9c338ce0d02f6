"""How an RGB image enters a network: six channels for B-cos, standardised for conventional models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class SixChannels(nn.Module):
    """[r, g, b, 1-r, 1-g, 1-b]: (B, 3, H, W) -> (B, 6, H, W).

    A dark pixel is as loud as a bright one, and a colour is a direction (B-cos, arXiv 2205.10268). The
    code holds a constant one per pixel and channel, which explanations credit to the pixel.
    """

    channels = 6

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat((images, 1 - images), dim=1)


class Standardised(nn.Module):
    """(x - mean) / std with ImageNet's statistics: (B, 3, H, W) -> (B, 3, H, W)."""

    channels = 3

    def forward(self, images: Tensor) -> Tensor:
        mean, std = (images.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        return (images - mean) / std
