"""Prediction and explanation as one compiled program: forward and backward pass are traced together, then fused.

Weights are inputs of the program, not constants in it. The number of images is a symbol in the trace, on which nothing
depends: one program serves them all, a single image included. (``torch.compile`` would make two, check all inputs at
every call, and run uncompiled once it has compiled eight models of one class.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo import lookup_backend
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from bcos_vit.explanation.inherent import explain_row
from bcos_vit.explanation.linear_map import collapse
from bcos_vit.explanation.result import Explanation
from bcos_vit.explanation.targets import Resolved, TopK, resolve

FEWEST = 2
"""Images in a trace; 0 and 1 would be taken for constants."""


@dataclass
class Program:
    """What was compiled."""

    run: Callable[..., Sequence[Tensor]]
    """Weights, images (B, 3, H, W), and coefficients if it was made for some -> the tensors of an explanation."""
    fields: tuple[str, ...]
    """What they are called in it."""
    words: dict[str, object]
    """The other fields of the explanation."""
    holds: Callable[[int], bool]
    """Whether what was assumed while compiling, as that indices have 32 bits, holds for a number of images."""
    known: dict[int, bool] = field(default_factory=dict)

    def fits(self, batch: int) -> bool:
        """Whether it is right for so many images."""
        if batch not in self.known:
            self.known[batch] = self.holds(batch)
        return self.known[batch]


class Explaining(nn.Module):
    """Images (B, 3, H, W), and coefficients (B, K) or (B, T, K), -> the explanation of those sums of logits.

    Without coefficients, that of the classes that ``target`` chooses by the logits.
    """

    def __init__(self, model: nn.Module, target: TopK | None) -> None:
        super().__init__()
        self.model = model
        self.target = target

    def forward(self, images: Tensor, coefficients: Tensor | None = None) -> Explanation:
        linear_map = collapse(self.model, images, check_values=False)
        with torch.no_grad():
            if coefficients is None:
                chosen = resolve(self.target, linear_map.logits)
            else:
                chosen = Resolved(coefficients.argmax(-1), coefficients)
            row = linear_map.row_of(chosen.coefficients, keep_graph=False)
            return explain_row(linear_map, images, chosen, row, None)


def compiled_program(
    model: nn.Module, weights: Mapping[str, Tensor], inputs: Sequence[Tensor], target: TopK | None, backend: str
) -> Program:
    """Trace and compile the explanation of ``inputs``: images, and coefficients where ``target`` does not choose.

    ``weights`` are all parameters and buffers of ``model`` by name, in the order in which the program takes them.
    """
    # Modules of its own, so that other threads can use the model meanwhile; the weights are shared.
    held = Explaining(copy.deepcopy(model, {id(t): t for t in weights.values()}), target)
    names = [f"model.{name}" for name in weights]
    fields: dict[str, Tensor] = {}
    words: dict[str, object] = {}

    def explained(*given: Tensor) -> list[Tensor]:
        own = dict(zip(names, given, strict=False))
        e = functional_call(held, own, given[len(names) :], tie_weights=False)
        fields.update(e._fields())
        words.update(e._words())
        del fields["images"]
        return list(fields.values())

    shapes = ShapeEnv()
    fake = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)
    given: list[Any] = [fake.from_tensor(t.detach(), static_shapes=True) for t in weights.values()]
    for t in inputs:
        like = t.new_empty(max(FEWEST, len(t)), *t.shape[1:])
        any_batch: StatelessSymbolicContext[..., Any] = StatelessSymbolicContext(
            [DimDynamic.DUCK, *[DimDynamic.STATIC] * (t.dim() - 1)]  # of images and coefficients one symbol
        )
        given.append(fake.from_tensor(like, symbolic_context=any_batch))
    symbol = given[-1].shape[0].node.expr
    # Backward is traced in this thread, since other threads know of no trace.
    with fake, enable_python_dispatcher(), torch.autograd.set_multithreading_enabled(False):
        graph = make_fx(explained)(*given)
    with torch.autocast(inputs[0].device.type, enabled=False), tracing(TracingContext(fake)):
        run = lookup_backend(backend)(graph, given)

    def holds(batch: int) -> bool:
        return all(bool(guard.expr.subs(symbol, batch)) for guard in shapes.guards)

    return Program(run, tuple(fields), words, holds)
