"""Where a map has its mass: inside a mask, or on the border."""

from __future__ import annotations

import torch
from torch import Tensor

from bcos_vit.metrics.maps import part_of, require_maps


def energy_in_mask(maps: Tensor, masks: Tensor) -> Tensor:
    """The part of each map's positive contributions that lies inside its mask (Wang et al., arXiv 1910.01279).

    ``sum over the mask of max(m, 0) / sum of max(m, 0)``, without smoothing, which would spill out of small masks.

    Parameters
    ----------
    maps
        (..., H, W) floating point, signed; computed in float32 at least.
    masks
        (..., H, W) boolean, of the same shape: True on the object.

    Returns
    -------
    Tensor
        (...) in [0, 1]: 1 is all inside. A map without any positive value has 0. A uniform map has the mask's area.

    Raises
    ------
    TypeError
        For maps that are no floating-point tensor, or masks that are not boolean.
    ValueError
        For masks of another shape, or a mask without a pixel: such an image has no object to point at.

    Examples
    --------
    >>> import torch
    >>> from bcos_vit.metrics import energy_in_mask
    >>> maps = torch.tensor([[[3.0, 1.0], [-5.0, 0.0]]])
    >>> energy_in_mask(maps, torch.tensor([[[True, False], [True, False]]]))
    tensor([0.7500])
    """
    maps = require_maps(maps)
    if not isinstance(masks, Tensor) or masks.dtype != torch.bool:
        what = masks.dtype if isinstance(masks, Tensor) else type(masks).__name__
        raise TypeError(f"masks must be a boolean tensor, True on the object, found {what}: give masks > 0")
    if masks.shape != maps.shape:
        raise ValueError(f"every map needs a mask of its size, found {tuple(maps.shape)} and {tuple(masks.shape)}")
    if missing := int((~masks.flatten(-2).any(-1)).sum()):
        raise ValueError(f"{missing} masks are empty: leave out images without an object")
    positive = maps.clamp(min=0)
    return part_of((positive * masks).sum((-2, -1)), positive.sum((-2, -1)))


def border_energy(maps: Tensor, width: int = 2) -> Tensor:
    """The part of each map's mass that lies on its outermost pixels.

    ``sum over the border of |m| / sum of |m|``: of magnitudes, since what a border does to a map has either sign.

    Parameters
    ----------
    maps
        (..., H, W) floating point, signed; computed in float32 at least.
    width
        Of the border, in pixels.

    Returns
    -------
    Tensor
        (...) in [0, 1]; 0 for a map of zeros. A uniform map has ``1 - (H - 2 width) (W - 2 width) / (H W)``.

    Raises
    ------
    TypeError
        For maps that are no floating-point tensor.
    ValueError
        For a width that is no whole number of at least 1, or that leaves no pixel inside.

    Examples
    --------
    >>> import torch
    >>> from bcos_vit.metrics import border_energy
    >>> f"{border_energy(torch.ones(32, 32)):.4f}"
    '0.2344'
    """
    maps = require_maps(maps)
    if not isinstance(width, int) or isinstance(width, bool) or not 1 <= width < min(maps.shape[-2:]) / 2:
        size = " x ".join(map(str, maps.shape[-2:]))
        raise ValueError(f"width must be a whole number of at least 1 that leaves pixels of {size}, found {width!r}")
    inside = torch.zeros(maps.shape[-2:], dtype=torch.bool, device=maps.device)
    inside[width:-width, width:-width] = True
    magnitudes = maps.abs()
    return part_of((magnitudes * ~inside).sum((-2, -1)), magnitudes.sum((-2, -1)))
