"""The anatomy of a prediction: how a logit is made up at every stage of the network, from the same linear map.

Held still, the network from any stage on is linear in what the stage hands on. So a logit is a sum over its tokens, a
block's output is what it skipped plus what attention and MLP added, attention is a sum over heads, and all of these
close as the ledger of the pixels does. One backward pass yields them together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import vmap

from bcos_vit.explanation.checking import TOLERANCES, LedgerError
from bcos_vit.explanation.inherent import explain_row
from bcos_vit.explanation.linear_map import LinearMap, collapse
from bcos_vit.explanation.result import Explanation
from bcos_vit.explanation.targets import Target, resolve
from bcos_vit.layers.mode import at_least_float32
from bcos_vit.layers.precision import ieee_float32

BRANCHES = ("skip", "attention", "mlp")
"""What a block's output consists of."""


@dataclass(frozen=True, eq=False, repr=False)
class Anatomy:
    """What the parts of a network contribute to one logit per image. Made by :func:`anatomy`; all detached.

    >>> import bcos_vit
    >>> model = bcos_vit.create_model("bcos_vit_digits", pretrained=True)
    >>> parts = bcos_vit.anatomy(model, torch.rand(2, 3, 8, 8)).check()
    >>> parts.stages, parts.grid
    (('tokens', 'blocks.0', 'blocks.1', 'blocks.2', 'blocks.3'), (4, 4))
    >>> parts.tokens["blocks.2"].shape, parts.heads.shape, parts.classes.shape
    (torch.Size([2, 16]), torch.Size([2, 4, 3]), torch.Size([2, 16, 10]))
    >>> total = sum(parts.branches["blocks.2", branch] for branch in ("skip", "attention", "mlp"))
    >>> torch.allclose(total, parts.tokens["blocks.2"].sum(1), rtol=1e-4)
    True
    """

    explanation: Explanation
    """The same logit by the pixels: target, logit, constants, contributions."""
    logits: Tensor
    """(B, K), bias included."""
    grid: tuple[int, int]
    """Rows and columns of the tokens."""
    tokens: dict[str, Tensor]
    """Stage -> (B, N): what each of its tokens adds to the logit, row by row of the grid."""
    constants: dict[str, Tensor]
    """Stage -> (B,): what constants after the stage add; what was added before is in its tokens."""
    branches: dict[tuple[str, str], Tensor]
    """(stage, "skip" | "attention" | "mlp") -> (B,): what of a block's output bypassed it, and what each half added to
    it. Each counts as it leaves the block: what attention feeds the MLP is the MLP's."""
    heads: Tensor
    """(B, L, H): what each head of each of L blocks adds; over the heads, the attention branch."""
    classes: Tensor
    """(B, N, K): what each token of the last stage adds to each logit."""
    class_constants: Tensor
    """(B, K): what constants after the last stage add to each logit."""

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the stages, in the order of the forward pass."""
        return tuple(self.tokens)

    def relative_residuals(self) -> dict[str, Tensor]:
        """By how much each sum misses what it should be, over the size of what is added: (B,) each.

        That is the sum of the absolute terms; where a sum is a logit at least the explanation's
        :attr:`~bcos_vit.Explanation.scale`, and of heads at least the tokens' that they are a part of. So parts which
        nearly cancel are no false alarm.

        Named by stage: ``"blocks.0"`` (tokens and constants against the logit), ``"blocks.0 branches"`` (against the
        tokens), ``"blocks.0 heads"`` (against the attention branch), ``"classes"`` (against all logits).
        """
        return {name: torch.where(off == 0, 0.0, off.abs() / scale) for name, off, scale in self._sums()}

    def check(self, tolerance: float | None = None) -> Anatomy:
        """Raise :class:`LedgerError` unless everything adds up within ``tolerance``; return the anatomy.

        The default is that of :meth:`Explanation.check`, 1e-5 in float32 and 1e-12 in float64.
        """
        self.explanation.check(tolerance)
        allowed = TOLERANCES[self.logits.dtype] if tolerance is None else tolerance
        for name, residual in self.relative_residuals().items():
            if not bool((residual <= allowed).all()):  # so that NaN is wrong
                raise LedgerError(f"{name} do not add up within {allowed:g}: the worst is off by {residual.max():.3g}")
        return self

    def __repr__(self) -> str:
        worst = max((float(r.max()) for r in self.relative_residuals().values()), default=0.0)
        size = f"{len(self.logits)} images in {len(self.stages)} stages"
        return f"<Anatomy of {size}; largest relative residual {worst:.1e}>"

    def _sums(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name, what is left over, and the scale of it."""
        logit, least = self.explanation.logit, self.explanation.scale
        for name, tokens in self.tokens.items():
            after = self.constants[name]
            yield name, logit - tokens.sum(1) - after, torch.maximum(_size(tokens) + after.abs(), least)
        for number, name in enumerate(dict.fromkeys(stage for stage, _ in self.branches)):
            tokens, heads = self.tokens[name], self.heads[:, number]
            parts = torch.stack([self.branches[name, branch] for branch in BRANCHES], 1)
            yield f"{name} branches", tokens.sum(1) - parts.sum(1), torch.maximum(_size(tokens), _size(parts))
            yield (
                f"{name} heads",
                self.branches[name, "attention"] - heads.sum(1),
                torch.maximum(_size(heads), _size(tokens)),
            )
        added = self.classes.sum(1) + self.class_constants
        off = self.logits.to(added.dtype) - added
        scale = torch.maximum(_size(self.classes) + self.class_constants.abs(), least[:, None])
        relative = torch.where(off == 0, 0.0, off.abs() / scale).nan_to_num(torch.inf)
        worst = relative.argmax(1, keepdim=True)
        yield "classes", off.gather(1, worst)[:, 0], scale.gather(1, worst)[:, 0]


def _size(parts: Tensor) -> Tensor:
    return parts.abs().sum(1)


def anatomy(model: nn.Module, images: Tensor, target: Target = None, *, check_values: bool = True) -> Anatomy:
    """Take one logit per image apart, at every stage, branch and head of the network, and all logits at the last stage.

    >>> import bcos_vit
    >>> model = bcos_vit.create_model("bcos_vit_digits", pretrained=True)
    >>> bcos_vit.anatomy(model, torch.rand(2, 3, 8, 8), bcos_vit.Contrast(4, 9))
    <Anatomy of 2 images in 5 stages; largest relative residual ...e-0...>

    Costs about one explanation: a forward pass and an input-only backward pass, which go through all stages anyway.

    Parameters
    ----------
    model
        A B-cos model, wrapped or not; or another with the same stages and branches
        (:func:`~bcos_vit.layers.mode.stage`).
    images
        (B, 3, H, W) RGB in [0, 1]. All at once: what lies on the way is kept, too.
    target
        As in :func:`explain`, but one per image.
    check_values
        Look for NaN and values outside [0, 1] first.

    Raises
    ------
    TypeError, ValueError
        As :func:`explain`; for several targets an image; for a model without stages.
    """
    linear_map = collapse(model, images, check_values=check_values, stages=True)
    with torch.inference_mode(False), torch.no_grad(), ieee_float32():
        resolved = resolve(target, linear_map.logits)
        if resolved.classes.dim() == 2:
            raise ValueError(f"an anatomy is of one target an image, found {resolved.classes.shape[1]}: ask one by one")
        names = _token_stages(linear_map, type(model).__name__)
        row, slopes = linear_map.row_with_stages(resolved.coefficients, names)
        tokens, constants = {}, {}
        branches: dict[tuple[str, str], Tensor] = {}
        heads = []
        for name, slope in zip(names, slopes, strict=True):
            stage = linear_map.stages[name]
            tokens[name] = _products(slope, stage.value).sum(-1).flatten(1)
            after = [share for _, share in row.terms[stage.constants :]]
            constants[name] = sum(after, torch.zeros_like(tokens[name][:, 0]))
            if not stage.branches:
                continue
            for branch in BRANCHES:
                branches[name, branch] = _products(slope, stage.branches[branch]).flatten(1).sum(1)
            mixed, attention = stage.branches["heads"], stage.branches["attention"]
            (back,) = torch.autograd.grad(attention, mixed, slope, retain_graph=True)
            heads.append(_products(back, mixed).sum((2, 3)))
        classes, class_constants = _by_class(linear_map)
        shown = images.detach().clone()
        return Anatomy(
            explanation=explain_row(linear_map, shown, resolved, row, None),
            logits=linear_map.logits,
            grid=linear_map.grid_size(),
            tokens=tokens,
            constants=constants,
            branches=branches,
            heads=torch.stack(heads, 1),
            classes=classes,
            class_constants=class_constants,
        )


def _token_stages(linear_map: LinearMap, model: str) -> list[str]:
    """The stages that have tokens; ``TypeError`` for a model that does not name all that an anatomy is made of."""
    stages = linear_map.stages
    missing = [] if "tokens" in stages else ["tokens"]
    missing += [] if {"pooled", "scores"} & stages.keys() else ["pooled"]
    blocks = {name: stage for name, stage in stages.items() if stage.branches}
    for name, stage in blocks.items():
        missing += [f"{branch} of {name}" for branch in (*BRANCHES, "heads") if branch not in stage.branches]
    if missing or not blocks:
        lacks = ", ".join(missing) or "of a block's"
        raise TypeError(f"{model} cannot be taken apart, since it names no stage or branch {lacks}")
    return [name for name, stage in stages.items() if stage.value.dim() > 2]


def _by_class(linear_map: LinearMap) -> tuple[Tensor, Tensor]:
    """What each token of the last stage adds to each logit, (B, N, K), and what constants do, (B, K).

    Held still, the head is a linear map J, and its backward pass ``u -> J^T u`` is linear in ``u``. The backward pass
    of that carries tokens forward through J: N products instead of K backward passes. ``"pooled"`` is their mean.
    """
    stages, logits = linear_map.stages, linear_map.graph_logits
    head = stages["pooled" if "pooled" in stages else "scores"]
    with torch.enable_grad():
        terms = linear_map.terms_after(head)
        u = torch.zeros_like(logits).requires_grad_()
        v, *slopes = torch.autograd.grad(
            logits, [head.value, *terms], u, retain_graph=True, create_graph=True, materialize_grads=True
        )
    wide = at_least_float32(logits.dtype)

    def forward(tangent: Tensor) -> Tensor:
        (carried,) = torch.autograd.grad(v, u, tangent, retain_graph=True)
        return carried.to(wide)

    added = [
        torch.autograd.grad(s, u, t.detach(), retain_graph=True)[0].to(wide) for s, t in zip(slopes, terms, strict=True)
    ]
    constants = sum(added, torch.zeros_like(logits, dtype=wide))
    if head.value.dim() == 3:  # a score of each token and class, of which the logits are a mean
        ones = torch.ones_like(logits)
        (slope,) = torch.autograd.grad(logits, head.value, ones, retain_graph=True)
        return _products(slope, head.value), constants
    tokens = linear_map.tokens([name for name in stages if stages[name].value.dim() > 2][-1])
    return vmap(forward, in_dims=1, out_dims=1)(tokens / tokens.shape[1]), constants


def _products(slope: Tensor, value: Tensor) -> Tensor:
    wide = at_least_float32(slope.dtype)
    return slope.to(wide) * value.detach().to(wide)
