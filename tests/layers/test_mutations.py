"""Break the source, one freeze at a time, and see a law fail: what proves that the laws can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from bcos_vit.layers import BcosLinear, LayerNorm, frozen
from bcos_vit.layers.position import rotation
from laws import assert_close, assert_closed_form, assert_linear_when_frozen, assert_same_forward
from mutants import Swap, module_from_source
from twins import (
    Twin,
    blur_twin,
    chain,
    conv_twin,
    group_norm_twin,
    layer_norm_twin,
    linear_twin,
    mixing_twin,
    plain_twin,
)

GRID = (2, 2)

# --- bricks, built from whatever module they are given; each comes with an input and its twin ---


class Subject(NamedTuple):
    brick: nn.Module
    x: Tensor
    twin: Twin
    unreached: tuple[str, ...] = ()


def linear(module: Any, b: float = 2, max_out: int = 2) -> Subject:
    layer = module.BcosLinear(5, 3, b=b, max_out=max_out).double()
    return Subject(layer, torch.randn(2, 2, 5).double(), linear_twin(layer.weight, b, max_out))


def linear_b(module: Any) -> Subject:
    return linear(module, b=1.5, max_out=1)


def conv(module: Any, b: float = 2, max_out: int = 2) -> Subject:
    layer = module.BcosConv2d(4, 4, 3, stride=2, padding=1, groups=2, b=b, max_out=max_out).double()
    twin = conv_twin(layer.weight, b, max_out, (2, 2), (1, 1), 2)
    return Subject(layer, torch.randn(2, 4, 4, 3).double(), twin)


def conv_b(module: Any) -> Subject:
    return conv(module, b=2.5, max_out=1)


def layer_norm(module: Any) -> Subject:
    norm = module.LayerNorm(5).double()
    return Subject(norm, torch.randn(2, 2, 5).double(), layer_norm_twin(norm.weight))


def group_norm(module: Any) -> Subject:
    norm = module.GroupNorm(4, groups=2).double()
    return Subject(norm, torch.randn(2, 4, 2, 3).double(), group_norm_twin(norm.weight, 2))


def blur(module: Any, kernel: str = "binomial", border: str = "reflect") -> Subject:
    return Subject(module.Blur(kernel, border), torch.randn(2, 1, 4, 3).double(), blur_twin(kernel, border))


def box_blur(module: Any) -> Subject:
    return blur(module, "box", "zero")


class Turned(nn.Module):
    """Attention with rotary positions, under the same names."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, rotation(*GRID, 4, like=x))


def attention(module: Any, rope: bool = False, prior: bool = False) -> Subject:
    tokens = GRID[0] * GRID[1]
    brick = module.Attention(
        8,
        2,
        norm=LayerNorm(8),
        value=nn.Linear(8, 8, bias=False),
        project=BcosLinear(8, 8),
        prior_tokens=tokens if prior else None,
    ).double()
    nn.init.normal_(brick.query_key.weight)  # far from flat attention, whose derivative is small
    twin = chain(
        layer_norm_twin(brick.norm.weight),
        mixing_twin(brick.query_key.weight, 2, plain_twin(brick.value.weight), brick.prior, GRID if rope else None),
        linear_twin(brick.project.weight, 2),
    )
    prefix = "attention." if rope else ""
    unreached = (f"{prefix}query_key.weight", f"{prefix}prior")
    return Subject(Turned(brick) if rope else brick, torch.randn(2, tokens, 8).double(), twin, unreached)


def rope_attention(module: Any) -> Subject:
    return attention(module, rope=True)


def prior_attention(module: Any) -> Subject:
    return attention(module, prior=True)


# --- the laws, by name ---


def closed_form(subject: Subject) -> None:
    assert_closed_form(subject.brick, subject.x, subject.twin)


def second_derivative(subject: Subject) -> None:
    assert_linear_when_frozen(subject.brick, subject.x, subject.unreached)


def frozen_rows(subject: Subject) -> None:
    """Dynamic weights held still, a layer is linear in its rows: row times gradient, summed, is the output."""
    weight = subject.brick.weight
    with frozen():
        y = subject.brick(subject.x)
    (row,) = torch.autograd.grad(y.sum(), weight)
    assert_close((row * weight).sum(), y.sum(), what="rows times gradient")


LAWS = {
    closed_form: "frozen Jacobian",
    second_derivative: "second derivative|second backward",
    frozen_rows: "rows times gradient",
}
"""Each law and what it says when it fails, so that no other failure is taken for it."""
BOTH = (closed_form, second_derivative)
CLOSED = (closed_form,)


class Mutation(NamedTuple):
    name: str
    module: str
    subject: Callable[[Any], Subject]
    swaps: tuple[Swap, ...]
    caught_by: tuple[Callable[[Subject], None], ...] = BOTH


OUT_OF_PLACE = ("return l.mul_(cosine_power(", "return l * (cosine_power(")  # else autograd itself refuses
COS = ("cosine_power(freeze(l),", "cosine_power(l,")
INPUT_NORM = ("linear.norm(freeze(x))", "linear.norm(x)")
ROW_NORM = ("linear.row_norm(freeze(weight))", "linear.row_norm(weight)")
LEARNING_RULE = ("if not is_frozen():\n        learning", "if True:\n        learning")
BACK = "dx = standardise(g * weight)"
ROWS = "(lambda t: t if ctx.groups is None else t.unflatten(1, (ctx.groups, -1)).flatten(2))"
ALONG = f"({ROWS}(s) * {ROWS}(h * s).mean(-1, keepdim=True)).view_as(h)"
VARIANCE = (BACK, f"h, s = g * weight, standardise(x[0])\n        dx = standardise(h - {ALONG})")
MEAN = ("(rows - rows.mean(-1, keepdim=True))", "rows")
FUSED_LAYER_NORM = ("if is_frozen():\n            return frozen_norm", "if False:\n            return frozen_norm")
FUSED_GROUP_NORM = ("if is_frozen():\n            bias", "if False:\n            bias")
GRAPH = ("torch.is_grad_enabled() and not is_frozen()", "torch.is_grad_enabled()")
HELD = {  # with a graph of the scores, what else keeps it from each of the three
    "q": ("scores = (q *", "scores = (q.detach() *"),
    "k": ("@ k.mT", "@ k.detach().mT"),
    "prior": ("scores + prior", "scores + prior.detach()"),
}
FUSED_ATTENTION = ("attend(q, k, prior) if is_frozen() else None", "None")


def only(free: str) -> tuple[Swap, ...]:
    """Attention in which that alone is not frozen."""
    return GRAPH, *[swap for name, swap in HELD.items() if name != free]


MUTATIONS = [
    *[
        Mutation(f"{name} of {subject.__name__}", "bcos", subject, swaps)
        for subject in (linear, linear_b, conv, conv_b)
        for name, swaps in {
            "|cos|": (COS, OUT_OF_PLACE),
            "input norm": (INPUT_NORM,),
            "|cos| and norm": (COS, INPUT_NORM, OUT_OF_PLACE),
            "learning rule": (LEARNING_RULE,),
        }.items()
    ],
    # Rows are the same for every image: only their own gradient tells.
    Mutation("row norm of linear", "bcos", linear_b, (ROW_NORM,), (frozen_rows,)),
    Mutation("row norm of conv", "bcos", conv_b, (ROW_NORM,), (frozen_rows,)),
    Mutation("variance of layer norm", "norm", layer_norm, (VARIANCE,)),
    Mutation("variance of group norm", "norm", group_norm, (VARIANCE,)),
    Mutation("fused layer norm", "norm", layer_norm, (FUSED_LAYER_NORM,)),
    Mutation("fused group norm", "norm", group_norm, (FUSED_GROUP_NORM,)),
    *[
        Mutation(f"{name} of {subject.__name__}", "attention", subject, swaps)
        for subject in (attention, rope_attention, prior_attention)
        for name, swaps in {"q": only("q"), "k": only("k"), "fused kernel": (GRAPH, FUSED_ATTENTION)}.items()
    ],
    # A blur is the same for every image, and a wrong transpose of it is linear as well: only the closed form tells.
    Mutation("transpose of a box", "blur", box_blur, (("(1, before, 1, before)", "(before, 1, before, 1)"),), CLOSED),
    Mutation("transpose of a reflection", "blur", blur, (('0 if border == "replicate" else 1', "0"),), CLOSED),
    Mutation("first pixels of the border", "blur", blur, (("if before:", "if False:"),), CLOSED),
    Mutation("last pixels of the border", "blur", blur, ((".add_(g.select(axis, -1))", ""),), CLOSED),
    # A prior is the same for every image: only its reach tells.
    Mutation("prior", "attention", prior_attention, only("prior"), (second_derivative,)),
    # Too much is frozen: still linear, but not the map.
    Mutation("frozen mean of layer norm", "norm", layer_norm, (MEAN,), (closed_form,)),
    Mutation("frozen mean of group norm", "norm", group_norm, (MEAN,), (closed_form,)),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name.replace(" ", "-"))
def test_a_law_catches(mutation: Mutation) -> None:
    torch.manual_seed(0)
    sound = mutation.subject(module_from_source(mutation.module))
    torch.manual_seed(0)
    broken = mutation.subject(module_from_source(mutation.module, *mutation.swaps))
    assert_same_forward(broken.brick, broken.x)  # what is broken is the derivative alone
    for law in mutation.caught_by:
        law(sound)
        with pytest.raises(AssertionError, match=LAWS[law]):
            law(broken)


@pytest.mark.parametrize("subject", [linear, linear_b, conv_b])
def test_autograd_itself_refuses_an_unfrozen_cosine(subject: Callable[[Any], Subject]) -> None:
    broken = subject(module_from_source("bcos", COS))
    for law in BOTH:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            law(broken)


def test_attention_with_a_graph_is_sound_if_all_three_are_held() -> None:
    # So that the mutants of q, k and prior fail for what their names say.
    subject = prior_attention(module_from_source("attention", *only("")))
    for law in BOTH:
        law(subject)


def test_a_tape_that_is_cut_is_caught_by_the_reach() -> None:
    # With the tape cut, no second derivative is left to see, though the map is the wrong one.
    torch.manual_seed(0)
    cut = ("return dx, dw, None, None, None", "return dx.detach(), dw, None, None, None")
    broken = linear(module_from_source("bcos", LEARNING_RULE, cut))
    with pytest.raises(AssertionError, match=r"second backward reaches \[\]"):
        second_derivative(broken)


def image_sum_error(brick: nn.Module, x: Tensor) -> Tensor:
    """How far input x gradient, summed, is from each output: all that a test of sums would look at."""
    x = x.detach().requires_grad_()
    with frozen():
        y = brick(x)
    rows = [torch.autograd.grad(y[:, c].sum(), x, retain_graph=True)[0] for c in range(y.shape[1])]
    return (torch.stack([(row * x).flatten(1).sum(1) for row in rows], 1) - y).abs().max() / y.abs().max()


def test_a_sum_does_not_catch_an_unfrozen_cosine() -> None:
    torch.manual_seed(0)
    layer = module_from_source("bcos", COS, INPUT_NORM, OUT_OF_PLACE).BcosLinear(5, 3).double()
    x = torch.randn(2, 5).double()
    assert image_sum_error(layer, x) < 1e-11  # every contribution is wrong, and yet they add up
    with pytest.raises(AssertionError, match="frozen Jacobian"):
        assert_closed_form(layer, x, linear_twin(layer.weight, 2))
