"""The closed forms that bricks are held to: the maths written again, without the code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Function = Callable[[Tensor], Tensor]


class Twin(NamedTuple):
    """What a brick must be; everything in float64.

    A brick is ``y = W(x) x + added``. Its twin says what W(x) is, twice: as a matrix put together entry by entry, and
    as a formula in plain tensor operations whose dynamic parts are detached. Sums of contributions prove less than
    either.
    """

    matrix: Function
    """One sample -> W(x), (outputs, inputs)."""
    formula: Function
    """A batch -> the brick's output, whose Jacobian is W(x) since the dynamic parts are detached."""
    added: Tensor | float = 0.0
    """What is added to every sample and is no part of the matrix."""


# --- the maths, in plain tensor operations; ``hold`` is what freezing does, the identity while learning ---


def unit_rows(weight: Tensor) -> Tensor:
    """Rows of norm 1, (O, ...) -> (O, I)."""
    rows = weight.flatten(1)
    return rows / rows.square().sum(1, keepdim=True).sqrt()


def dynamic_scale(l: Tensor, n: Tensor, b: float) -> Tensor:
    """|cos|^(B-1), as published: without the stabilising term at B = 2."""
    cos = (l / n).abs()
    return torch.ones_like(cos) if b == 1 else cos if b == 2 else (cos + 1e-6) ** (b - 1)


def bcos_linear(x: Tensor, weight: Tensor, b: float, max_out: int = 1, hold: Function = Tensor.detach) -> Tensor:
    l = (x @ unit_rows(weight).T).unflatten(-1, (-1, max_out)).max(-1).values
    n = x.square().sum(-1, keepdim=True).sqrt() + 1e-12
    return l * hold(dynamic_scale(l, n, b))


Pair = tuple[int, int]


def bcos_conv(
    x: Tensor,
    weight: Tensor,
    b: float,
    max_out: int = 1,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    groups: int = 1,
    hold: Function = Tensor.detach,
) -> Tensor:
    rows = unit_rows(weight).unflatten(0, (groups, -1))
    patches = F.unfold(x, weight.shape[2:], padding=padding, stride=stride).unflatten(1, (groups, -1))  # (B, G, I, L)
    l = torch.einsum("bgil,goi->bgol", patches, rows).unflatten(2, (-1, max_out)).max(3).values
    n = (patches.square().sum(2, keepdim=True) + 1e-6).sqrt()
    height = (x.shape[2] + 2 * padding[0] - weight.shape[2]) // stride[0] + 1
    return (l * hold(dynamic_scale(l, n, b))).flatten(1, 2).unflatten(2, (height, -1))


def normed(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True) + eps).sqrt().detach()


def turned(t: Tensor, grid: Pair) -> Tensor:
    """Rotary positions of (B, N, H, d) in complex numbers: half a head by the row, half by the column."""
    quarter = t.shape[-1] // 4
    frequency = 100 ** (-torch.arange(quarter).double() / quarter)
    halves = []
    for axis, half in enumerate(t.chunk(2, -1)):
        position = torch.cartesian_prod(*map(torch.arange, grid))[:, axis, None, None]
        z = torch.complex(half[..., :quarter], half[..., quarter:]) * torch.exp(1j * position * frequency)
        halves += [z.real, z.imag]
    return torch.cat(halves, -1)


def attention_matrix(
    x: Tensor, query_key: Tensor, heads: int, prior: Tensor | None = None, grid: Pair | None = None
) -> Tensor:
    """softmax(q k^T / sqrt(d) + prior) of normalised tokens (B, N, D), (B, H, N, N)."""
    q, k = (t.unflatten(-1, (heads, -1)) for t in (x @ query_key.T).chunk(2, -1))
    if grid is not None:
        q, k = turned(q, grid), turned(k, grid)
    logits = torch.einsum("bnhd,bmhd->bhnm", q, k) / math.sqrt(q.shape[-1])
    powers = (logits if prior is None else logits + prior).exp()
    return powers / powers.sum(-1, keepdim=True)


# --- twins ---


def exact(t: Tensor) -> Tensor:
    return t.detach().double()


def winning_rows(rows: Tensor, v: Tensor, n: Tensor, b: float, max_out: int) -> Tensor:
    """W(x) of one vector, (O, I): of each unit's rows the winner, times its scale."""
    found = []
    for candidates in rows.split(max_out):
        row = candidates[(candidates @ v).argmax()]
        found.append(dynamic_scale(row @ v, n, b) * row)
    return torch.stack(found)


def per_token(matrix: Function) -> Function:
    """The matrix of what treats every token (..., I) on its own."""
    return lambda x: torch.block_diag(*[matrix(token) for token in x.reshape(-1, x.shape[-1])])


def plain_twin(weight: Tensor) -> Twin:
    w = exact(weight)
    return Twin(per_token(lambda v: w), lambda x: x @ w.T)


def linear_twin(weight: Tensor, b: float, max_out: int = 1) -> Twin:
    w = exact(weight)

    def matrix(v: Tensor) -> Tensor:
        return winning_rows(unit_rows(w), v, v.norm() + 1e-12, b, max_out)

    return Twin(per_token(matrix), lambda x: bcos_linear(x, w, b, max_out))


def conv_twin(
    weight: Tensor, b: float, max_out: int = 1, stride: Pair = (1, 1), padding: Pair = (0, 0), groups: int = 1
) -> Twin:
    w = exact(weight)
    (kh, kw), (sh, sw), (ph, pw) = w.shape[2:], stride, padding

    def matrix(x: Tensor) -> Tensor:  # pixel by pixel: where every window lies, and the row for what it sees
        pixels = F.pad(x, (pw, pw, ph, ph))
        number = F.pad(torch.arange(x.numel()).view_as(x), (pw, pw, ph, ph), value=-1)
        height, width = (pixels.shape[1] - kh) // sh + 1, (pixels.shape[2] - kw) // sw + 1
        units = len(w) // max_out // groups
        found = x.new_zeros(groups, units, height, width, x.numel())
        for g, rows in enumerate(unit_rows(w).chunk(groups)):
            channels = slice(g * w.shape[1], (g + 1) * w.shape[1])
            for i in range(height):
                for j in range(width):
                    window = channels, slice(i * sh, i * sh + kh), slice(j * sw, j * sw + kw)
                    v, where = pixels[window].flatten(), number[window].flatten()
                    inside = where >= 0
                    dynamic = winning_rows(rows, v, (v @ v + 1e-6).sqrt(), b, max_out)
                    found[g, :, i, j, where[inside]] = dynamic[:, inside]
        return found.view(-1, x.numel())

    return Twin(matrix, lambda x: bcos_conv(x, w, b, max_out, stride, padding, groups))


def layer_norm_twin(weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5) -> Twin:
    w, size = exact(weight), weight.numel()
    shift = torch.zeros_like(w) if bias is None else exact(bias)

    def matrix(v: Tensor) -> Tensor:
        centre = torch.eye(size, dtype=v.dtype) - 1 / size
        return w[:, None] * centre / (v.var(correction=0) + eps).sqrt()

    return Twin(per_token(matrix), lambda x: normed(x, (-1,), eps) * w + shift, shift)


def group_norm_twin(weight: Tensor, groups: int = 1, bias: Tensor | None = None, eps: float = 1e-5) -> Twin:
    w = exact(weight)[:, None, None]
    shift = torch.zeros_like(w) if bias is None else exact(bias)[:, None, None]

    def matrix(x: Tensor) -> Tensor:
        blocks = []
        for values, scales in zip(x.chunk(groups), w.expand_as(x).chunk(groups), strict=True):
            centre = torch.eye(values.numel(), dtype=x.dtype) - 1 / values.numel()
            blocks.append(scales.flatten()[:, None] * centre / (values.var(correction=0) + eps).sqrt())
        return torch.block_diag(*blocks)

    def formula(x: Tensor) -> Tensor:
        return normed(x.unflatten(1, (groups, -1)), (2, 3, 4), eps).flatten(1, 2) * w + shift

    return Twin(matrix, formula, shift)


def mixing_twin(
    query_key: Tensor, heads: int, value: Twin, prior: Tensor | None = None, grid: Pair | None = None
) -> Twin:
    """Values mixed by the attention matrix, from normalised tokens."""
    qk, table = exact(query_key), None if prior is None else exact(prior)
    eye = torch.eye(heads).double(), torch.eye(qk.shape[1] // heads).double()

    def matrix(x: Tensor) -> Tensor:
        (mix,) = attention_matrix(x[None], qk, heads, table, grid)
        whole = torch.einsum("hnm,hg,ce->nhcmge", mix, *eye)
        return whole.reshape(x.numel(), x.numel()) @ value.matrix(x)

    def formula(x: Tensor) -> Tensor:
        mix = attention_matrix(x, qk, heads, table, grid).detach()
        values = value.formula(x).unflatten(-1, (heads, -1))
        return torch.einsum("bhnm,bmhc->bnhc", mix, values).flatten(2)

    return Twin(matrix, formula)


def blur_matrix(size: int, kernel: str, border: str) -> Tensor:
    """What blurs a line of ``size`` pixels, (size, size): where every tap falls, entry by entry."""
    found = torch.zeros(size, size).double()
    taps = {-1: 0.25, 0: 0.5, 1: 0.25} if kernel == "binomial" else {0: 0.5, 1: 0.5}
    for i in range(size):
        for step, share in taps.items():
            j = i + step
            if border == "replicate":
                j = min(max(j, 0), size - 1)
            if border == "reflect":
                j = size - 1 - abs(size - 1 - abs(j))
            if 0 <= j < size:
                found[i, j] += share
    return found


def blur_twin(kernel: str, border: str) -> Twin:
    """Rows and columns of (C, H, W) blurred, each channel on its own."""

    def matrix(x: Tensor) -> Tensor:
        both = torch.kron(*(blur_matrix(size, kernel, border) for size in x.shape[1:]))
        return torch.block_diag(*[both] * len(x))

    def formula(x: Tensor) -> Tensor:
        rows, columns = (blur_matrix(size, kernel, border) for size in x.shape[2:])
        return rows @ x @ columns.T

    return Twin(matrix, formula)


def mean_twin() -> Twin:
    """The mean over tokens, (B, N, D) -> (B, D)."""

    def matrix(x: Tensor) -> Tensor:
        return torch.eye(x.shape[1]).double().repeat(1, len(x)) / len(x)

    return Twin(matrix, lambda x: x.sum(1) / x.shape[1])


def patch_twin(p: int) -> Twin:
    """Pixels (C, H, W) -> (H/p, W/p, p*p*C): a permutation, the channels innermost."""

    def order(x: Tensor) -> Tensor:
        channels, height, width = x.shape
        number = torch.arange(x.numel()).view_as(x)
        spots = [
            number[c, i * p + a, j * p + b]
            for i in range(height // p)
            for j in range(width // p)
            for a in range(p)
            for b in range(p)
            for c in range(channels)
        ]
        return torch.stack(spots)

    def formula(x: Tensor) -> Tensor:
        return x.flatten(1)[:, order(x[0])].view(len(x), x.shape[2] // p, x.shape[3] // p, -1)

    return Twin(lambda x: torch.eye(x.numel()).double()[order(x)], formula)


def chain(*twins: Twin) -> Twin:
    """One twin after another, none of which adds anything."""

    def matrix(x: Tensor) -> Tensor:
        total = torch.eye(x.numel()).double()
        for twin in twins:
            total = twin.matrix(x) @ total
            x = twin.formula(x[None])[0]
        return total

    def formula(x: Tensor) -> Tensor:
        for twin in twins:
            x = twin.formula(x)
        return x

    return Twin(matrix, formula)
