"""How much of a map is a checkerboard: its energy on the frequencies of a model's strides.

A convolution with stride s, and a patch of s pixels, treats pixels at equal places within s x s squares alike. What
that adds to a map repeats every s pixels, whatever the image shows: it lies on the frequencies k / s cycles per pixel,
the *lattice* of the period s.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from bcos_vit.metrics.maps import part_of, require_maps
from bcos_vit.models import ViT


def lattice_share(maps: Tensor, strides: int | Iterable[int]) -> Tensor:
    """The part of each map's energy that lies on the lattice of the model's strides.

    ``sum over the lattice of |F|^2 / sum over all frequencies but (0, 0) of |F|^2``, where F is the discrete Fourier
    transform of the map and the lattice of a period s is every (j / s, k / s) cycles per pixel, j and k in 0..s-1,
    without (0, 0). The mean of the map is thereby left out. It equals the part of the variance that is explained by
    the mean of the map's s x s tiles.

    Parameters
    ----------
    maps
        (..., H, W) floating point; computed in float32 at least.
    strides
        The period in pixels, or several, whose lattices are united. Of strides in a row, their products: 2, 4, 8, 16
        for four convolutions of stride 2, which is the same as 16, since it is a multiple of the others.
        :func:`lattice_period` knows a model's.

    Returns
    -------
    Tensor
        (...) in [0, 1]: small is free of a checkerboard, to be compared with :func:`white_noise_share`. 0 for a
        constant map, NaN where a map holds NaN or an infinite value.

    Raises
    ------
    TypeError
        For maps that are no floating-point tensor.
    ValueError
        For periods that are not whole numbers of at least 1, or that do not divide height and width: the frequencies
        of the lattice are then none of the transform's, and the share would be blurred. Crop the maps to a multiple.

    Examples
    --------
    >>> import torch
    >>> from bcos_vit.metrics import lattice_share
    >>> checkerboard = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(8, 8)
    >>> left_to_right = torch.linspace(0, 1, 16).expand(16, 16)
    >>> lattice_share(torch.stack([checkerboard, left_to_right]), 2)
    tensor([1.0000, 0.0118])
    """
    maps = require_maps(maps)
    lattice = _lattice(maps.shape[-2], maps.shape[-1], strides).to(maps.device)
    least, most = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    # Divided by its span, no map over- or underflows when it is squared, and a constant one becomes exactly 0.
    scaled = part_of(maps - least, most - least)
    energy = torch.fft.fft2(scaled - scaled.mean((-2, -1), keepdim=True)).abs().square()
    return part_of((energy * lattice).sum((-2, -1)), energy.sum((-2, -1)))


def white_noise_share(height: int, width: int, strides: int | Iterable[int]) -> float:
    """What white noise has on average as its :func:`lattice_share`: the part of all frequencies that is on the lattice.

    Parameters
    ----------
    height, width
        Of the map, in pixels.
    strides
        As in :func:`lattice_share`, with the same errors.

    Examples
    --------
    >>> from bcos_vit.metrics import white_noise_share
    >>> f"{white_noise_share(224, 224, 16):.4f}", f"{white_noise_share(64, 64, (2, 4, 8, 16)):.3f}"
    ('0.0051', '0.062')
    """
    for name, size in (("height", height), ("width", width)):
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name} must be a whole number of at least 1 pixel, found {size!r}")
    return int(_lattice(height, width, strides).sum()) / max(height * width - 1, 1)


def lattice_period(model: ViT) -> int:
    """The period of a model's lattice in pixels: its patch size, which the strides of its stem are part of.

    >>> from bcos_vit import create_model
    >>> lattice_period(create_model("bcos_vitc_ti_patch1_14"))
    16
    """
    return model.spec.patch_size


def _lattice(height: int, width: int, strides: int | Iterable[int]) -> Tensor:
    """(height, width) boolean: which bins of the transform are on the lattice."""
    periods = [strides] if isinstance(strides, int) else list(strides)
    for period in periods:
        if not isinstance(period, int) or isinstance(period, bool) or period < 1:
            raise ValueError(f"strides must be whole numbers of at least 1 pixel, found {period!r}")
        if height % period or width % period:
            raise ValueError(
                f"a period of {period} pixels does not divide a map of {height} x {width}: "
                "crop the map to multiples of it"
            )
    if not periods:
        raise ValueError("strides must name at least one period in pixels, found none")
    rows, columns = torch.arange(height), torch.arange(width)
    lattice = torch.zeros(height, width, dtype=torch.bool)
    for period in periods:  # bin u is u / height cycles per pixel: on the lattice if that is a multiple of 1 / period
        lattice |= (rows * period % height == 0)[:, None] & (columns * period % width == 0)
    lattice[0, 0] = False
    return lattice
