"""A blur before a stride of two, so that the lattice of the pixels that the stride keeps cannot be seen in a map.

Every second pixel alternates at half a cycle a pixel. A linear map that does not answer to that frequency hides from
what follows which pixels the stride keeps, and its transpose, by which explanations come back to the image, is a
blur again ("Making Convolutional Networks Shift-Invariant Again", arXiv 1904.11486, uses such blurs against aliasing).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcos_vit.layers.functions import with_signature

Kernel = Literal["binomial", "box"]
Border = Literal["zero", "replicate", "reflect"]

KERNEL: Kernel = "box"
BORDER: Border = "reflect"
"""What :class:`Blur` does unless it is told otherwise, chosen by ``benchmarks/downsampling.py`` (docs/shapes.md)."""

TIMES = {"box": 1, "binomial": 2}
"""How often neighbours are averaged: [1 1]/2 twice is [1 2 1]/4."""
PADDING = {"zero": "constant", "replicate": "replicate", "reflect": "reflect"}
"""The words of :func:`torch.nn.functional.pad`."""


def neighbour_means(x: Tensor, times: int) -> Tensor:
    """The mean of two neighbours, by rows and by columns, ``times`` over: (..., H, W) -> (..., H - times, W - times).

    Halves are exact, so of a wave that alternates from pixel to pixel exactly nothing is left.
    """
    for axis in (-2, -1):
        for _ in range(times):
            count = x.shape[axis] - 1
            x = x.narrow(axis, 0, count).lerp(x.narrow(axis, 1, count), 0.5)
    return x


def blurred(x: Tensor, times: int, border: str) -> Tensor:
    """(B, C, H, W) -> (B, C, H, W)."""
    before = times - 1
    return neighbour_means(F.pad(x, (before, 1, before, 1), PADDING[border]), times)


def transposed(g: Tensor, times: int, border: str) -> Tensor:
    """The transpose of :func:`blurred`, (B, C, H, W) -> (B, C, H, W)."""
    before = times - 1
    if border == "zero":
        return neighbour_means(F.pad(g, (1, before, 1, before)), times)
    g = neighbour_means(F.pad(g, (times, times, times, times)), times)
    for axis in (-2, -1):  # what came from a pixel beyond the border goes to the one that it was taken from
        count = g.shape[axis] - times
        inside = g.narrow(axis, before, count).clone()
        source = 0 if border == "replicate" else 1
        if before:
            inside.select(axis, source).add_(g.select(axis, 0))
        inside.select(axis, count - 1 - source).add_(g.select(axis, -1))
        g = inside
    return g


@with_signature
class Blurring(torch.autograd.Function):
    """:func:`blurred`, with its transpose for gradients: autograd's own, of slices, takes several times as long."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, times: int, border: str) -> Tensor:
        return blurred(x, times, border)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.times, ctx.border = inputs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return transposed(g, ctx.times, ctx.border), None, None


class Blur(nn.Module):
    """A fixed blur by rows and columns, (B, C, H, W) -> (B, C, H, W), each channel on its own. Linear, no parameters.

    It does not answer to a wave that alternates from pixel to pixel, by rows or by columns, and inside the image
    neither does its transpose; within a pixel of the border, what is left depends on ``border``.

    >>> blur = Blur("binomial")
    >>> spot = torch.zeros(1, 1, 5, 5)
    >>> spot[..., 2, 2] = 16
    >>> blur(spot)[0, 0, 1:4, 1:4].tolist()
    [[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]
    >>> alternating = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 1, 8, 8)
    >>> blur(alternating)[0, 0, 3, 1:-1].tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]

    Parameters
    ----------
    kernel
        ``"binomial"``: [1 2 1]/4, about the pixel itself. ``"box"``: [1 1]/2, of the pixel and the next one below or to
        the right, the border lying there alone. Then the windows of a following 3x3 convolution with stride 2 and
        padding 1 stay where they are, and see 4x4 pixels about the middle of the 2x2 that they stand for.
    border
        What lies beyond the image: ``"zero"``, ``"replicate"``: its outermost pixels, or ``"reflect"``: the pixels next
        to those, for images of at least 2x2 pixels.

    Raises
    ------
    ValueError
        For another kernel or border, or, when called, an image too small to reflect.
    """

    def __init__(self, kernel: Kernel = KERNEL, border: Border = BORDER) -> None:
        for name, found, known in (("kernel", kernel, Kernel), ("border", border, Border)):
            if found not in get_args(known):
                raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, found {found!r}")
        super().__init__()
        self.kernel, self.border = kernel, border

    def forward(self, x: Tensor) -> Tensor:
        if self.border == "reflect" and min(x.shape[2:]) < 2:
            height, width = x.shape[2:]
            raise ValueError(f"a blur with a reflected border needs at least 2 x 2 pixels, found {height} x {width}")
        y: Tensor = Blurring.apply(x, TIMES[self.kernel], self.border)
        return y

    def extra_repr(self) -> str:
        return f"kernel={self.kernel!r}, border={self.border!r}"
