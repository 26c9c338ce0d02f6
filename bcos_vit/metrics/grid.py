"""The grid pointing game: how far the map of a class points at the tile that shows it.

Böhle et al., arXiv 2104.00032 and 2306.10898; the order of tiles and the choice of images are those of the public code
of the second.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bcos_vit.metrics.maps import part_of, require_maps


def grid_pointing(maps: Tensor, smooth: int = 1) -> Tensor:
    """The part of each map's positive contributions that lies in its own tile.

    The map is averaged over ``smooth`` x ``smooth`` pixels, zeros beyond the border counted, and clamped at 0.

    Parameters
    ----------
    maps
        (B, n * n, H, W) floating point, of B grids of n x n tiles, n at least 2: map k explains the class that tile k
        shows, at row k mod n and column k div n. Computed in float32 at least.
    smooth
        An odd number of pixels; 1 smooths nothing.

    Returns
    -------
    Tensor
        (B, n * n) in [0, 1]; 0 for a map without any positive value, 1 / n^2 for a uniform one.

    Raises
    ------
    TypeError
        For maps that are no floating-point tensor.
    ValueError
        For a number of maps that is not 4, 9, 16, ...; a height or width that n does not divide; an even ``smooth``.

    Examples
    --------
    >>> import torch
    >>> from bcos_vit.metrics import grid_pointing
    >>> maps = torch.ones(1, 4, 8, 8)
    >>> maps[:, 1, 4:, :4] = 5  # the map of tile 1, which is the lower left one
    >>> grid_pointing(maps)
    tensor([[0.2500, 0.6250, 0.2500, 0.2500]])
    """
    maps = require_maps(maps, "(B, n * n, H, W)")
    n = _side(maps.shape[1])
    height, width = maps.shape[-2:]
    if height % n or width % n:
        raise ValueError(f"maps of {height} x {width} do not divide into {n} x {n} tiles")
    if not isinstance(smooth, int) or isinstance(smooth, bool) or smooth < 1 or smooth % 2 == 0:
        raise ValueError(f"smooth must be an odd number of pixels, 1 for no smoothing, found {smooth!r}")
    positive = F.avg_pool2d(maps, smooth, stride=1, padding=smooth // 2).clamp(min=0)
    # (B, map, row, y, column, x), and tiles count down the columns.
    tiles = positive.unflatten(3, (n, -1)).unflatten(2, (n, -1)).sum((3, 5)).transpose(2, 3).flatten(2)
    return part_of(tiles.diagonal(dim1=1, dim2=2), tiles.sum(2))


def join_tiles(tiles: Tensor) -> Tensor:
    """Grids made of images: tile k lies at row k mod n and column k div n.

    Parameters
    ----------
    tiles
        (B, n * n, C, h, w), n at least 2.

    Returns
    -------
    Tensor
        (B, C, n h, n w).

    Raises
    ------
    ValueError
        For another number of axes, or a number of tiles that is not 4, 9, 16, ...

    Examples
    --------
    >>> import torch
    >>> from bcos_vit.metrics import join_tiles
    >>> join_tiles(torch.arange(4.0).reshape(1, 4, 1, 1, 1))
    tensor([[[[0., 2.],
              [1., 3.]]]])
    """
    if tiles.ndim != 5:
        raise ValueError(f"tiles must have the shape (B, n * n, C, h, w), found {tuple(tiles.shape)}")
    n = _side(tiles.shape[1])
    return tiles.unflatten(1, (n, n)).permute(0, 3, 2, 4, 1, 5).flatten(4, 5).flatten(2, 3)


def confident_grids(
    probabilities: Tensor, labels: Tensor, *, n: int, grids: int, seed: int = 42, threshold: float = 0.5
) -> Tensor:
    """Which images make up the grids: surely and rightly classified ones, the surest first.

    Only images whose label is the predicted class, with a probability above the threshold, take part. Every grid
    draws n * n distinct classes among those that have such an image left, all equally likely, and takes of each the
    surest image that is not used yet; of equally sure ones the first. The classes drawn are those of the published
    code for the same seed. Two differences: it drops one more image after every grid (a pointer that advances once
    too often), so that later grids straddle two draws; and it ends when exactly n * n classes are left, which here
    still make grids.

    Parameters
    ----------
    probabilities
        (N, K) in [0, 1] of all images and classes; of a B-cos model, sigmoids.
    labels
        (N,) class numbers.
    n
        Tiles of a side, at least 2.
    grids
        How many, at least 1.
    seed
        Of the draw.
    threshold
        In [0, 1).

    Returns
    -------
    Tensor
        (grids, n * n) image numbers on the CPU, each at most once, in the order of tiles for :func:`join_tiles`.

    Raises
    ------
    ValueError
        For shapes that do not fit, a number out of its range, or if there are images for fewer grids.

    Examples
    --------
    >>> import torch
    >>> from bcos_vit.metrics import confident_grids
    >>> labels = torch.arange(6) % 4
    >>> probabilities = torch.eye(4)[labels] * torch.tensor([0.9, 0.9, 0.9, 0.4, 0.95, 0.6])[:, None]
    >>> probabilities = torch.cat([probabilities, torch.tensor([[0.0, 0.0, 0.0, 0.7]])])
    >>> confident_grids(probabilities, torch.tensor([*labels, 3]), n=2, grids=1).sort().values
    tensor([[1, 2, 4, 6]])
    """
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        shapes = f"{tuple(probabilities.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"probabilities must be (N, K) and labels (N,), found {shapes}")
    for name, number, least in (("n", n, 2), ("grids", grids, 1)):
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, found {number!r}")
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must be a probability in [0, 1), found {threshold!r}")
    sure, predicted = probabilities.cpu().max(1)
    takes_part = (predicted == labels.cpu()) & (sure > threshold)
    order = sure.argsort(descending=True, stable=True)
    left = [order[(takes_part & (predicted == k))[order]].tolist() for k in range(probabilities.shape[1])]
    random = np.random.RandomState(seed)  # the generator of the published code, for the same draws
    chosen: list[list[int]] = []
    while len(chosen) < grids:
        classes = [k for k, images in enumerate(left) if images]
        if len(classes) < n * n:
            raise ValueError(
                f"the rightly classified images of a probability above {threshold} make {len(chosen)} grids of "
                f"{n} x {n} distinct classes, not {grids}: ask for fewer grids or give more images"
            )
        chosen.append([left[k].pop(0) for k in random.choice(classes, n * n, replace=False)])
    return torch.tensor(chosen)


def _side(count: int) -> int:
    n = math.isqrt(count)
    if n < 2 or n * n != count:
        raise ValueError(f"a grid has n * n tiles and maps, n at least 2 (4, 9, 16, ...), found {count}")
    return n
