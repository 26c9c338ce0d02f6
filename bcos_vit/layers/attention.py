"""Multi-head self-attention: while explaining, the attention matrix is a constant and the values pass through it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcos_vit.layers.functions import with_signature
from bcos_vit.layers.mode import branch, fixed, is_frozen
from bcos_vit.layers.position import Rotation, rotate

PRIOR_STD = 1.0
"""Spread of a learned prior's start: at zero all tokens attend alike, and no position is told from another."""


def attend(q: Tensor, k: Tensor, prior: Tensor | None) -> Tensor:
    """``softmax(q k^T / sqrt(d) + prior)``: (B, H, N, d) twice -> (B, H, N, N)."""
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if prior is not None:
        scores = scores + prior
    return scores.softmax(-1)


@with_signature
class Mix(torch.autograd.Function):
    """``matrix @ v``, (..., N, N) and (..., N, d) -> (..., N, d), as torch's own but under ``vmap``.

    Gradients of T targets at once come as T batches of values for one attention matrix. Torch's rule copies the matrix
    for each; here they become T d columns of a single product.
    """

    @staticmethod
    def forward(matrix: Tensor, v: Tensor) -> Tensor:
        return matrix @ v

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        matrix, v = inputs
        ctx.save_for_backward(matrix, *((v,) if ctx.needs_input_grad[0] else ()))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        matrix, *v = ctx.saved_tensors
        dv = Mix.apply(matrix.mT, g) if ctx.needs_input_grad[1] else None
        return (g @ v[0].mT if v else None), dv

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, int | None], matrix: Tensor, v: Tensor) -> tuple[Tensor, int]:
        axis, of_v = in_dims
        if axis is None:
            assert of_v is not None
            columns = v.movedim(of_v, -2)  # (..., N, T, d)
            mixed = Mix.apply(matrix, columns.flatten(-2)).unflatten(-1, columns.shape[-2:])
            return mixed, mixed.dim() - 2
        v = v.expand(info.batch_size, *v.shape) if of_v is None else v.movedim(of_v, 0)
        return Mix.apply(matrix.movedim(axis, 0), v), 0


class Values(nn.Linear):
    """A plain linear map without bias, of which nothing is kept for its weight while a linear map is collapsed."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, fixed(self.weight))


class Attention(nn.Module):
    """``project(softmax(q k^T / sqrt(d) + prior) v)`` of the normalised tokens, (B, N, D) -> (B, N, D).

    Queries and keys are one plain linear map without bias; they need no gradient while explaining, so they are
    computed apart from the values.

    Parameters
    ----------
    width, heads
        D and H; the caller has seen to it that H divides D.
    norm, value, project
        The modules around the attention matrix, each (B, N, D) -> (B, N, D): the B-cos and the conventional
        family differ in these alone.
    prior_tokens
        N of a learned N x N table per head that is added to the attention logits, or None for no table.
    """

    def __init__(
        self, width: int, heads: int, *, norm: nn.Module, value: nn.Module, project: nn.Module, prior_tokens: int | None
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm = norm
        self.query_key = nn.Linear(width, 2 * width, bias=False)
        self.value = value
        self.project = project
        self.prior: nn.Parameter | None = None
        if prior_tokens is not None:
            self.prior = nn.Parameter(PRIOR_STD * torch.randn(heads, prior_tokens, prior_tokens))

    def forward(self, x: Tensor, turn: Rotation | None = None) -> Tensor:
        x = self.norm(x)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen()):  # no graph of what is constant
            q, k = (self._split(t) for t in self.query_key(x).chunk(2, dim=-1))
            if turn is not None:
                q, k = rotate(q, turn), rotate(k, turn)
            prior = None if self.prior is None else self.prior.to(q.dtype)
            matrix = attend(q, k, prior) if is_frozen() else None
        v = self._split(self.value(x))
        mixed = (
            F.scaled_dot_product_attention(q, k, v, attn_mask=prior)
            if matrix is None
            else Mix.apply(matrix.to(v.dtype), v)
        )
        return self.project(branch("heads", mixed).transpose(1, 2).flatten(2))

    def _split(self, t: Tensor) -> Tensor:
        return t.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, N, D) -> (B, H, N, d)
