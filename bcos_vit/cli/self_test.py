"""The laws of ``bcos-vit doctor --self-test``: what holds of every explanation, measured on one device in a minute.

Each law is a function of two copies of a model, in float64 on the CPU and in float32 on the device. It returns a figure
that must not exceed its limit.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bcos_vit.explanation import TopK, anatomy, collapse, explain
from bcos_vit.explanation.checking import TOLERANCES
from bcos_vit.layers import frozen
from bcos_vit.layers.precision import ieee_float32
from bcos_vit.models import ViT, create_model

ROUNDING = 1e-5
"""Of the largest value: what float32 may do to logits and ledgers; exported files are held to the same."""
ROW_ROUNDING = 3e-5
"""And to rows of the linear map."""
PARTS = 1.25
"""Memory at its highest, as a multiple of what ``explain`` is told plus its results twice; 0.6 to 0.8 on a CPU."""
IMAGES = 4
MIB = 2**20


class Finding(NamedTuple):
    """What came out of one law."""

    law: str
    limit: float
    figure: float | None
    """None where it could not be measured."""
    remark: str = ""
    """Why not, or what went wrong."""

    @property
    def holds(self) -> bool | None:
        """Whether the figure is within the limit, which NaN is not; None where there is no figure."""
        return None if self.figure is None else self.figure <= self.limit

    def __str__(self) -> str:
        word = {None: "-", True: "ok", False: "WRONG"}[self.holds]
        return f"{word:<6}{self.law:<63}" + (self.remark or f"{self.figure:.1e} (at most {self.limit:.1e})")


def findings(device: torch.device) -> Iterator[Finding]:
    """Test every law on every model, and then what concerns the device alone."""
    for name, model in models():
        exact, here = copy.deepcopy(model).double(), model.to(device)
        for law, (limit, measure) in LAWS.items():
            yield _finding(f"{name}: {law}", limit, functools.partial(measure, exact, here))
    yield _memory(device)
    yield _compiling(device)


def models() -> Iterator[tuple[str, ViT]]:
    """The shipped model, and untrained small ones without and with a stem, in float32 on the CPU.

    The latter without a bias, beside which what an untrained model says of an image would hardly count.
    """
    yield "shipped", create_model("bcos_vit_digits", pretrained=True).eval()
    with torch.random.fork_rng(devices=[]):
        for kind, name in (("ViT", "bcos_simple_vit_ti_patch16_224"), ("ViTC", "bcos_vitc_ti_patch1_14")):
            torch.manual_seed(0)
            yield f"random {kind}", create_model(name, image_size=64, depth=2, num_classes=10, logit_bias=0).eval()


def images_for(model: ViT, count: int = IMAGES) -> Tensor:
    """(count, 3, H, W) of uniform noise, always the same, on the model's device and in its dtype."""
    size, like = model.spec.image_size, next(model.parameters())
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)).to(like)


def _logits(exact: ViT, here: ViT) -> float:
    found, expected = (collapse(model, images_for(model)).logits for model in (here, exact))
    return deviation(found - here.spec.bias, expected - here.spec.bias)


def _predictions(exact: ViT, here: ViT) -> float:
    with torch.no_grad(), ieee_float32():
        found, expected = (model(images_for(model)) for model in (here, exact))
    return deviation(found - here.spec.bias, expected - here.spec.bias)


def _rows(exact: ViT, here: ViT) -> float:
    return deviation(*(collapse(model, images_for(model)).matrix() for model in (here, exact)))


def _held_still(_: ViT, here: ViT) -> float:
    """The second derivative of what is held still by the image, relative to the first: zero.

    The same backward pass must reach every weight but those of queries, keys and priors, which are constants here:
    where the tape is cut, the derivative would be zero for that alone.
    """
    x = here.encode(images_for(here)).detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH), frozen():  # a fused attention, were it used, has no second derivative
        (row,) = torch.autograd.grad(here.forward_encoded(x).sum(), x, create_graph=True)
        weights = {name: p for name, p in here.named_parameters() if not name.endswith(("query_key.weight", "prior"))}
        second, *reached = torch.autograd.grad((row * x.detach()).sum(), (x, *weights.values()), allow_unused=True)
    if cut := [name for name, found in zip(weights, reached, strict=True) if found is None]:
        raise ArithmeticError(f"the backward pass of an explanation is cut off from {cut[0]}")
    return 0.0 if second is None else float(second.abs().max() / row.abs().max())


def _ledger(_: ViT, here: ViT) -> float:
    return float(explain(here, images_for(here)).relative_residual.max())


def _ledger_in(dtype: torch.dtype) -> Callable[[ViT, ViT], float]:
    return lambda exact, here: _ledger(exact, copy.deepcopy(here).to(dtype))


def _ledger_autocast(exact: ViT, here: ViT) -> float:
    with torch.autocast(next(here.parameters()).device.type, torch.bfloat16):
        return _ledger(exact, here)


def _several(_: ViT, here: ViT) -> float:
    images = images_for(here)
    together = explain(here, images, TopK(3))
    alone = [explain(here, images, target).contributions for target in together.target.T]
    return deviation(together.contributions, torch.stack(alone, 1))


def _anatomy(_: ViT, here: ViT) -> float:
    return max(float(off.max()) for off in anatomy(here, images_for(here)).relative_residuals().values())


LAWS: dict[str, tuple[float, Callable[[ViT, ViT], float]]] = {
    "predictions against float64 on the CPU": (ROUNDING, _predictions),
    "logits of explanations against float64 on the CPU": (ROUNDING, _logits),
    "rows of all classes against float64 on the CPU": (ROW_ROUNDING, _rows),
    "second derivative while explaining, which is zero": (ROUNDING, _held_still),
    "residual of the ledger, float32": (TOLERANCES[torch.float32], _ledger),
    "residual of the ledger, bfloat16": (TOLERANCES[torch.bfloat16], _ledger_in(torch.bfloat16)),
    "residual of the ledger, autocast to bfloat16": (TOLERANCES[torch.bfloat16], _ledger_autocast),
    "three targets at once against one by one": (ROW_ROUNDING, _several),
    "sums of the anatomy": (TOLERANCES[torch.float32], _anatomy),
}
"""Law -> its limit, and how its figure is found."""


def deviation(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest value expected."""
    expected = expected.detach().double().cpu()
    return float((found.detach().double().cpu() - expected).abs().max() / expected.abs().max())


def _finding(law: str, limit: float, measure: Callable[[], float]) -> Finding:
    try:
        return Finding(law, limit, measure())
    except Exception as error:  # whatever it is, the other laws are to be tested, too
        return Finding(law, limit, math.nan, _in_a_line(error))


def _memory(device: torch.device) -> Finding:
    law = "memory at its highest, as a multiple of what explain may take"
    if device.type != "cuda":
        return Finding(law, PARTS, None, f"torch does not count it on {device.type}")
    model = create_model("bcos_simple_vit_ti_patch16_224", depth=2, num_classes=10).eval().to(device)
    return _finding(law, PARTS, lambda: peak(model, images_for(model, 64), 128 * MIB))


def peak(model: ViT, images: Tensor, memory: int) -> float:
    """The CUDA device's memory at its highest while ``images`` are explained, over ``memory`` and the results twice."""
    explain(model, images[:1])  # what libraries set aside at their first use
    torch.cuda.synchronize(images.device)
    before = torch.cuda.memory_allocated(images.device)
    torch.cuda.reset_peak_memory_stats(images.device)
    e = explain(model, images, memory=memory)
    results = sum(t.nbytes for t in vars(e).values() if isinstance(t, Tensor))
    return (torch.cuda.max_memory_allocated(images.device) - before) / (memory + 2 * results)


def _compiling(device: torch.device) -> Finding:
    """That there is no compiler is no fault; that compiled code computes something else is one."""
    law = "compiled against eager logits"
    model = create_model("bcos_vit_digits", depth=1).eval().to(device)
    images = images_for(model)
    with torch.no_grad(), ieee_float32():
        try:
            found = torch.compile(model, fullgraph=True)(images)
        except Exception as error:
            return Finding(law, ROUNDING, None, f"torch.compile does not work here: {_in_a_line(error)}")
        return _finding(law, ROUNDING, lambda: deviation(found, model(images)))


def _in_a_line(error: Exception) -> str:
    return " ".join([f"{type(error).__name__}:", *str(error).split()])[:300]
