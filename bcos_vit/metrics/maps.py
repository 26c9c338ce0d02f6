"""What every measure asks of contribution maps, and how it divides one part of a map by the whole."""

from __future__ import annotations

import torch
from torch import Tensor


def require_maps(maps: Tensor, axes: str = "(..., H, W)") -> Tensor:
    """The maps in float32 at least, once it is known that they are maps.

    Parameters
    ----------
    maps
        Floating point; its last two axes are rows and columns of pixels.
    axes
        The shape that is asked for, as the sentence names it. Without dots, the number of axes must agree.

    Raises
    ------
    TypeError
        For anything but a tensor of floating-point numbers.
    ValueError
        For another number of axes, or a map without pixels.

    >>> require_maps(torch.ones(2, 4, 4, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        what = maps.dtype if isinstance(maps, Tensor) else type(maps).__name__
        raise TypeError(f"maps must be a tensor of floating-point numbers, found {what}: convert with torch.as_tensor")
    count = axes.count(",") + 1
    fits = maps.ndim >= 2 if "..." in axes else maps.ndim == count
    if not fits or 0 in maps.shape[-2:]:
        raise ValueError(f"maps must have the shape {axes} with at least one pixel, found {tuple(maps.shape)}")
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


def part_of(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole``, and 0 where the whole is 0; what is no number stays none.

    >>> part_of(torch.tensor([1.0, 0.0]), torch.tensor([4.0, 0.0]))
    tensor([0.2500, 0.0000])
    """
    return part / whole.where(whole != 0, 1)
