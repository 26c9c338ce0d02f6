"""Break the source, one freeze at a time, and see a law fail: what proves that the laws can."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import bcos_vit.layers
from bcos_vit.layers import BcosLinear, LayerNorm, frozen
from bcos_vit.layers.position import rotation
from laws import assert_close, assert_closed_form, assert_linear_when_frozen, assert_same_forward
from twins import (
    Twin,
    bcos_conv,
    bcos_linear,
    chain,
    conv_twin,
    group_norm_twin,
    layer_norm_twin,
    linear_twin,
    mixing_twin,
    plain_twin,
)

Swap = tuple[str, str]
GRID = (2, 2)


def module_from_source(name: str, *swaps: Swap) -> Any:
    """``bcos_vit.layers.<name>`` as a module of its own, with each old text replaced by the new one."""
    path = Path(bcos_vit.layers.__file__).with_name(f"{name}.py")
    source = path.read_text(encoding="utf-8")
    for old, new in swaps:
        assert source.count(old) == 1, f"{path.name} holds {source.count(old)} times: {old}"
        source = source.replace(old, new)
    module = types.ModuleType(f"bcos_vit.layers.{name}")
    module.__package__, module.__file__ = "bcos_vit.layers", str(path)
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module


# --- bricks, built from whatever module they are given; each comes with an input and its twin ---


class Subject(NamedTuple):
    brick: nn.Module
    x: Tensor
    twin: Twin
    unreached: tuple[str, ...] = ()


def linear(module: Any, b: float = 2) -> Subject:
    layer = module.BcosLinear(5, 3, b=b, max_out=2).double()
    return Subject(layer, torch.randn(2, 2, 5).double(), linear_twin(layer.weight, b, 2))


def linear_b(module: Any) -> Subject:
    return linear(module, b=1.5)


def conv(module: Any, b: float = 2) -> Subject:
    layer = module.BcosConv2d(4, 4, 3, stride=2, padding=1, groups=2, b=b, max_out=2).double()
    twin = conv_twin(layer.weight, b, 2, (2, 2), (1, 1), 2)
    return Subject(layer, torch.randn(2, 4, 4, 3).double(), twin)


def conv_b(module: Any) -> Subject:
    return conv(module, b=2.5)


def layer_norm(module: Any) -> Subject:
    norm = module.LayerNorm(5).double()
    return Subject(norm, torch.randn(2, 2, 5).double(), layer_norm_twin(norm.weight))


def group_norm(module: Any) -> Subject:
    norm = module.GroupNorm(4, groups=2).double()
    return Subject(norm, torch.randn(2, 4, 2, 3).double(), group_norm_twin(norm.weight, 2))


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


LAWS = {closed_form: "frozen Jacobian", second_derivative: "second derivative|second backward"}
"""Each law and what it says when it fails, so that no other failure is taken for it."""
BOTH = (closed_form, second_derivative)


class Mutation(NamedTuple):
    name: str
    module: str
    subject: Callable[[Any], Subject]
    swaps: tuple[Swap, ...]
    caught_by: tuple[Callable[[Subject], None], ...] = BOTH


COS = ("cosine_power(freeze(l), n, b)", "cosine_power(l, n, b)")
INPUT_NORM = ("linear.norm(freeze(x))", "linear.norm(x)")
LEARNING_RULE = ("if not is_frozen() and b != 1:", "if b != 1:")
VARIANCE = ("freeze(var)", "var")
FUSED_LAYER_NORM = ("if not is_frozen():\n            return F.layer_norm", "if True:\n            return F.layer_norm")
FUSED_GROUP_NORM = ("if not is_frozen():\n            return F.group_norm", "if True:\n            return F.group_norm")
MEAN = ("(wide - mean)", "(wide - freeze(mean))")
Q = ("q, k = freeze(q), freeze(k)", "q, k = q, freeze(k)")
K = ("q, k = freeze(q), freeze(k)", "q, k = freeze(q), k")
PRIOR = ("freeze(self.prior)", "self.prior")

MUTATIONS = [
    *[
        Mutation(f"{name} of {subject.__name__}", "bcos", subject, swaps)
        for subject in (linear, linear_b, conv, conv_b)
        for name, swaps in {"|cos|": (COS,), "input norm": (INPUT_NORM,), "|cos| and norm": (COS, INPUT_NORM)}.items()
    ],
    # The learning rule refuses a second derivative in an error of its own.
    Mutation("learning rule of linear", "bcos", linear, (LEARNING_RULE,), (closed_form,)),
    Mutation("learning rule of conv", "bcos", conv, (LEARNING_RULE,), (closed_form,)),
    Mutation("variance of layer norm", "norm", layer_norm, (VARIANCE,)),
    Mutation("variance of group norm", "norm", group_norm, (VARIANCE,)),
    Mutation("fused layer norm", "norm", layer_norm, (FUSED_LAYER_NORM,)),
    Mutation("fused group norm", "norm", group_norm, (FUSED_GROUP_NORM,)),
    *[
        Mutation(f"{name} of {subject.__name__}", "attention", subject, (swap,))
        for subject in (attention, rope_attention, prior_attention)
        for name, swap in {"q": Q, "k": K}.items()
    ],
    # A prior is the same for every image: only its reach tells.
    Mutation("prior", "attention", prior_attention, (PRIOR,), (second_derivative,)),
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
    layer = module_from_source("bcos", COS, INPUT_NORM).BcosLinear(5, 3).double()
    x = torch.randn(2, 5).double()
    assert image_sum_error(layer, x) < 1e-11  # every contribution is wrong, and yet they add up
    with pytest.raises(AssertionError, match="frozen Jacobian"):
        assert_closed_form(layer, x, linear_twin(layer.weight, 2))


# --- the learning rule ---

LEARNING_MUTATIONS = {
    "no norm term": (
        "dx = linear.add_norm_gradient(linear.input_gradient(dl, x, w), dn / n, x)",
        "dx = linear.input_gradient(dl, x, w)",
    ),
    "no slope of |cos| at B = 2": ("dl = 2 * slope", "dl = slope"),
    "no slope of |cos|": ("dl = slope + g *", "dl = g *"),
    "the wrong winner": ("full.scatter(axis, winner[0]", "full.scatter(axis, 1 - winner[0]"),
}


def assert_gradients(layer: nn.Module, x: Tensor, plain: Callable[[Tensor, Tensor], Tensor]) -> None:
    x = (10 * x).requires_grad_()  # the closed form leaves out the norm's 1e-12 where it would not show
    leaves = x, layer.weight
    for found, expected in zip(
        torch.autograd.grad(layer(x).square().sum(), leaves),
        torch.autograd.grad(plain(*leaves).square().sum(), leaves),
        strict=True,
    ):
        assert_close(found, expected, 1e-12, "gradient")


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("name", LEARNING_MUTATIONS)
def test_the_gradient_comparison_catches(name: str, kind: str) -> None:
    b = 1.5 if name == "no slope of |cos|" else 2

    def check(module: Any) -> None:
        torch.manual_seed(0)
        if kind == "linear":
            layer, x = module.BcosLinear(5, 3, b=b, max_out=2).double(), torch.randn(2, 5).double()
            assert_gradients(layer, x, lambda x, w: bcos_linear(x, w, b, 2, hold=lambda t: t))
        else:
            layer, x = module.BcosConv2d(2, 3, 3, b=b, max_out=2).double(), torch.randn(1, 2, 4, 4).double()
            assert_gradients(layer, x, lambda x, w: bcos_conv(x, w, b, 2, hold=lambda t: t))

    check(module_from_source("bcos"))
    with pytest.raises(AssertionError, match="gradient"):
        check(module_from_source("bcos", LEARNING_MUTATIONS[name]))
