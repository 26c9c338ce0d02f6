"""A B-cos Vision Transformer written again from the maths of the twins: float64, its dynamic parts detached."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bcos_vit.layers.position import sincos_code
from bcos_vit.models.vit import ViT
from twins import (
    attention_matrix,
    bcos_conv,
    bcos_linear,
    blur_twin,
    exact,
    normed,
    patch_twin,
    unit_rows,
    winning_rows,
)


@dataclass
class ByHand:
    """One forward pass, every value with its graph, so that autograd reads off any row from any place."""

    encoded: Tensor
    logits: Tensor
    position: Tensor | None
    """(B, N, D), a leaf, if a code is added."""
    bias: float
    stages: dict[str, Tensor] = field(default_factory=dict)
    branches: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    heads: dict[str, list[Tensor]] = field(default_factory=dict)
    """Block -> what attention hands on, (B, N, D), from the values of one head alone, all else as it was."""

    def slope(self, output: Tensor, place: Tensor) -> Tensor:
        return torch.autograd.grad(output.sum(), place, retain_graph=True)[0]


def by_hand(model: ViT, images: Tensor) -> ByHand:
    """The forward pass of ``model`` on images (B, 3, H, W), frozen."""
    spec, x = model.spec, exact(images)
    x = torch.cat((x, 1 - x), 1).requires_grad_()
    found = ByHand(encoded=x, logits=x, position=None, bias=spec.bias)

    def linear(x: Tensor, weight: Tensor) -> Tensor:
        return bcos_linear(x, exact(weight), spec.b, spec.max_out)

    for number, (part, channels) in enumerate(zip(model.tokens.stem, spec.stem, strict=True)):
        grows = channels > x.shape[1]
        stride = 1 + grows if spec.stem_strides is None else spec.stem_strides[number]
        if spec.downsample == "blurred" and stride == 2:
            x = blur_twin(part.blur.kernel, part.blur.border).formula(x)
        x = bcos_conv(x, exact(part.conv.weight), spec.b, spec.stem_max_out, (stride, stride), (1, 1))
        x = normed(x, (1, 2, 3), 1e-5) * exact(part.norm.weight)[:, None, None]
    x = found.stages["tokens"] = linear(patch_twin(model.tokens.patch).formula(x), model.tokens.project.weight)
    grid = (x.shape[1], x.shape[2])
    x = x.flatten(1, 2)
    if spec.position == "sincos":
        found.position = sincos_code(*grid, spec.width, like=x).expand(x.shape).clone().requires_grad_()
        x = x + found.position
    for number, block in enumerate(model.blocks):
        name, attention, mlp = f"blocks.{number}", block.attention, block.mlp
        z = normed(x, (-1,), 1e-5) * exact(attention.norm.weight)
        prior = None if attention.prior is None else exact(attention.prior)
        turn = grid if spec.position == "rope" else None
        matrix = attention_matrix(z, exact(attention.query_key.weight), spec.heads, prior, turn).detach()
        weight = exact(attention.value.weight)
        values = linear(z, weight) if spec.value == "bcos" else z @ weight.T
        mixed = torch.einsum("bhnm,bmhc->bnhc", matrix, values.unflatten(-1, (spec.heads, -1))).flatten(2)
        found.branches[name, "skip"] = x
        found.branches[name, "attention"] = linear(mixed, attention.project.weight)
        found.heads[name] = _by_head(mixed, exact(attention.project.weight), model)
        x = x + found.branches[name, "attention"]
        z = normed(x, (-1,), 1e-5) * exact(mlp.norm.weight)
        found.branches[name, "mlp"] = linear(linear(z, mlp.expand.weight), mlp.contract.weight)
        x = found.stages[name] = x + found.branches[name, "mlp"]
    if spec.head == "pool":
        x = found.stages["pooled"] = x.mean(1)
    x = linear(normed(x, (-1,), 1e-5) * exact(model.head.norm.weight), model.head.classify.weight)
    if spec.head == "tokens":
        found.stages["scores"] = x
        x = x.mean(1)
    found.logits = spec.logit_scale * x + spec.bias
    return found


def _by_head(mixed: Tensor, weight: Tensor, model: ViT) -> list[Tensor]:
    """The projection held as it is for all heads, (D, D) a token, times the values of one head, all others zeroed."""
    rows, spec = unit_rows(weight), model.spec
    flat = mixed.detach().flatten(0, 1)
    held = torch.stack([winning_rows(rows, v, v.norm() + 1e-12, spec.b, spec.max_out) for v in flat])
    masks = torch.eye(spec.heads, dtype=flat.dtype).repeat_interleave(spec.head_dim, 1)
    return [torch.einsum("tij,tj->ti", held, flat * mask).view_as(mixed) for mask in masks]
