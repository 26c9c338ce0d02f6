"""The B-cos transform, linear and convolutional: ``y = |cos(x, w)|^(B-1) * w.x / |w|``, with one norm |w| a row.

M. Boehle, M. Fritz, B. Schiele, "B-cos Networks", CVPR 2022, arXiv 2205.10268; stabilising terms as in
the B-cos v2 release. The rows stay as they are and the result is divided by their norms: a normalised copy, kept for
backward, would cost more memory and time (in float16, rows must have a norm between about 1e-3 and 1e4).

There are two rules for one forward pass:

* *learning*: an autograd function whose backward is the closed form of the true gradient, in as few passes over
  memory as it takes. Differentiated again, it works from its inputs, not from what it stored.
* *explaining* (inside :func:`~bcos_vit.layers.mode.frozen`): ordinary tensor operations in which |cos| and both norms
  are frozen, so that backward is the stored scale and then the weight, and can be differentiated again.

MaxOut (M > 1): unit o answers with the largest of rows ``o*M ... o*M+M-1``; the winner is a constant by nature.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from bcos_vit.layers.functions import with_signature
from bcos_vit.layers.maps import Convolution, Dense, Map
from bcos_vit.layers.mode import fixed, freeze, is_autocast, is_frozen

COSINE_EPS = 1e-6
"""Added to |cos| before a power other than 1, so that its slope stays finite at zero (as published)."""


def cosine_power(l: Tensor, n: Tensor, r: Tensor, b: float) -> Tensor:
    """The dynamic scale ``|cos|^(B-1) / r`` with ``cos = l / (n r)``; at B = 2 without the stabilising term.

    ``l`` are products with rows of norm ``r``, ``n`` the norms of the input. Computed in float32 at least, with one
    exception: bfloat16 at B = 2 is computed in bfloat16, which takes half the time and makes the rounding errors of
    logits and rows up to a fifth larger. Float16 has not the range for it.
    """
    if b == 2 and l.dtype == torch.bfloat16:
        return l.abs().mul_(n.reciprocal().to(l.dtype)).mul_((r * r).reciprocal().to(l.dtype))
    cos = l.abs().to(n.dtype).div_(n)  # in place, since fresh memory costs more than arithmetic
    return (cos.div_(r * r) if b == 2 else cos.div_(r).add_(COSINE_EPS).pow_(b - 1).div_(r)).to(l.dtype)


def strongest(l: Tensor, axis: int, max_out: int) -> tuple[Tensor, Tensor]:
    """MaxOut: the largest of each unit's ``max_out`` rows along ``axis``, and which it was."""
    axis %= l.dim()
    return l.unflatten(axis, (-1, max_out)).max(axis + 1)


def to_winners(dl: Tensor, winner: Tensor, axis: int, max_out: int) -> Tensor:
    """The transpose of :func:`strongest`: gradients of the units, to the rows that won."""
    axis %= dl.dim()
    shape = (*dl.shape[: axis + 1], max_out, *dl.shape[axis + 1 :])
    spread = dl.new_zeros(shape).scatter(axis + 1, winner.unsqueeze(axis + 1), dl.unsqueeze(axis + 1))
    return spread.flatten(axis, axis + 1)


def respond(x: Tensor, w: Tensor, r: Tensor, linear: Map, max_out: int) -> tuple[Tensor, ...]:
    """``l = w.x`` and the norm ``r`` of its rows; with MaxOut ``l`` of unit rows, that norm, and who won."""
    l = linear.product(x, w.to(x.dtype))
    if max_out == 1:
        return l, r
    l, winner = strongest((l / r).to(l.dtype), linear.axis, max_out)
    return l, torch.ones_like(r[:1]), winner


@with_signature
class BcosLearning(torch.autograd.Function):
    """Closed-form gradient of the B-cos transform by its input and its weight.

    With ``p = |cos|^(B-1)`` and ``q = cos dp/dcos``: ``dy/dl = (p + q) / r`` and ``dy/dn = -q l / (n r)``; at B = 2,
    ``p = q``. The part of a row's gradient along the row goes, for the row's length does not matter.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, w: Tensor, linear: Map, b: float, max_out: int) -> tuple[Tensor, ...]:
        n, r = linear.norm(x), linear.row_norm(w)
        l, unit, *winner = respond(x, w, r, linear, max_out)
        scale = cosine_power(l, linear.per_unit(n, l.shape[linear.axis]), unit, b)
        # Compiled by torch 2.11, a result that is made in place loses its gradient, and nothing is said.
        y = scale * l if torch.compiler.is_compiling() else scale.mul_(l)
        return y, l, n, r, *winner

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, w, ctx.linear, ctx.b, ctx.max_out = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, w, *output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if g is None:
            return None, None, None, None, None
        linear, b, max_out = ctx.linear, ctx.b, ctx.max_out
        x, w, l, n, r, *winner = ctx.saved_tensors
        unit = torch.ones_like(r[:1]) if winner else r
        if torch.is_grad_enabled():  # to be differentiated again: what forward stored would hide from the tape
            n, r = linear.norm(x), linear.row_norm(w)
            l, unit, *winner = respond(x, w, r, linear, max_out)
        cos = l.abs().to(n.dtype).div_(linear.per_unit(n, l.shape[linear.axis])).div_(unit)
        if b == 2:
            dl = g * cos.mul_(2 / unit)  # fresh: of several gradients at once (vmap), cos is but one
            dn = linear.sum_units(dl * l) / -2
        else:
            slope = g * ((b - 1) * (cos + COSINE_EPS).pow(b - 2) * cos / unit)
            dl = slope + g * ((cos + COSINE_EPS).pow(b - 1) / unit)
            dn = -linear.sum_units(slope * l)
        dl = dl.to(g.dtype)
        if winner:
            dl = (to_winners(dl, winner[0], linear.axis, max_out) / r).to(g.dtype)
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = linear.input_gradient(dl, x.shape, w.to(x.dtype))
            dx = linear.add_norm_gradient(dx, dn / (n * n), x)  # dn/dx = x / n
        if ctx.needs_input_grad[1]:
            dw = linear.weight_gradient(dl, x, w).to(w.dtype)
            across = (-1, *[1] * (w.dim() - 1))
            along = (dw * w).flatten(1).sum(1) / r.flatten().square()
            dw = dw.addcmul(w, -along.to(w.dtype).view(across))
        return dx, dw, None, None, None


def bcos_transform(x: Tensor, weight: Tensor, linear: Map, b: float, max_out: int) -> Tensor:
    """Apply the transform with ``weight`` (raw rows) in the mode that is on."""
    if is_autocast(x):
        # Cast here, since torch.amp.custom_fwd does not work with setup_context.
        x = x if x.dtype == torch.float64 else x.to(torch.get_autocast_dtype(x.device.type))
    elif x.dtype != weight.dtype:
        raise TypeError(f"the input is {x.dtype} but the weights are {weight.dtype}: convert one with .to(dtype)")
    if not is_frozen():
        learning = BcosLearning.apply if torch.is_grad_enabled() else BcosLearning.forward
        y: Tensor = learning(x, weight, linear, b, max_out)[0]
        return y
    n, r = linear.norm(freeze(x)), linear.row_norm(freeze(weight))
    l, unit, *_ = respond(x, fixed(weight), r, linear, max_out)
    return l.mul_(cosine_power(freeze(l), linear.per_unit(n, l.shape[linear.axis]), unit, b))


def _check(b: float, **counts: int | tuple[int, int]) -> None:
    for name, given in counts.items():
        for count in given if isinstance(given, tuple) else (given,):
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, found {count}")
    if not b >= 1 or math.isinf(b):
        raise ValueError(f"b must be a finite number of at least 1, found {b}")


def _initialise(weight: Tensor) -> None:
    bound = weight[0].numel() ** -0.5
    nn.init.uniform_(weight, -bound, bound)  # PyTorch's default for linear maps and convolutions


class BcosLinear(nn.Module):
    """B-cos linear transform, (..., in_features) -> (..., out_features). No bias.

    Parameters
    ----------
    in_features, out_features
        Numbers of channels.
    b
        The exponent B >= 1; B = 1 is a linear map with unit-norm rows.
    max_out
        M >= 1 rows compete for every output.

    Raises
    ------
    ValueError
        If ``b`` or ``max_out`` is below 1.
    """

    def __init__(self, in_features: int, out_features: int, *, b: float = 2, max_out: int = 1) -> None:
        _check(b, max_out=max_out, in_features=in_features, out_features=out_features)
        super().__init__()
        self.in_features, self.out_features, self.b, self.max_out = in_features, out_features, b, max_out
        self.weight = nn.Parameter(torch.empty(max_out * out_features, in_features))
        _initialise(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return bcos_transform(x, self.weight, Dense(), self.b, self.max_out)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, b={self.b}, max_out={self.max_out}"


class BcosConv2d(nn.Module):
    """B-cos convolution, (B, in_channels, H, W) -> (B, out_channels, H', W'). Zero padding, no bias, no dilation.

    Parameters
    ----------
    in_channels, out_channels, groups
        As in :class:`torch.nn.Conv2d`; both channel numbers must divide by ``groups``.
    kernel_size, stride, padding
        One number, or one for rows and one for columns, in pixels. Padded pixels count as zeros in the norm.
    b, max_out
        As in :class:`BcosLinear`.

    Raises
    ------
    ValueError
        If ``b`` or ``max_out`` is below 1, or the groups do not divide the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        groups: int = 1,
        b: float = 2,
        max_out: int = 1,
    ) -> None:
        kernel, stride, padding = (v if isinstance(v, tuple) else (v, v) for v in (kernel_size, stride, padding))
        channels = dict(in_channels=in_channels, out_channels=out_channels, groups=groups)
        _check(b, max_out=max_out, kernel_size=kernel, stride=stride, **channels)
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}")
        super().__init__()
        self.geometry = Convolution(stride, padding, groups, kernel)
        self.in_channels, self.out_channels, self.b, self.max_out = in_channels, out_channels, b, max_out
        self.weight = nn.Parameter(torch.empty(max_out * out_channels, in_channels // groups, *kernel))
        _initialise(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise ValueError(f"a convolution takes (B, {self.in_channels}, H, W), found {tuple(x.shape)}")
        return bcos_transform(x, self.weight, self.geometry, self.b, self.max_out)

    def extra_repr(self) -> str:
        g = self.geometry
        shape = f"{self.in_channels}, {self.out_channels}, kernel_size={g.kernel}, stride={g.stride}"
        return f"{shape}, padding={g.padding}, groups={g.groups}, b={self.b}, max_out={self.max_out}"
