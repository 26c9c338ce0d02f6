"""Explanations by compiled programs: ``explain`` in a fraction of the time, once the programs have been made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from bcos_vit import checks
from bcos_vit.compiler import missing_compiler
from bcos_vit.explanation.linear_map import explainable
from bcos_vit.explanation.result import Explanation
from bcos_vit.explanation.targets import LOGIT, Resolved, Target, TopK, Unit, resolve
from bcos_vit.layers.mode import frozen
from bcos_vit.layers.precision import ieee_float32

if TYPE_CHECKING:
    from bcos_vit.explanation.tracing import Program

Targets = Literal["predicted", "input"]
_PLAIN = bool | int | float | str | tuple
"""Types of attributes that a trace takes for constants."""


def compile_explainer(model: nn.Module, targets: Targets = "predicted", *, backend: str = "inductor") -> Explainer:
    """Make a function that explains as :func:`explain` does, by a compiled program: for many images of one size.

    >>> import bcos_vit
    >>> model = bcos_vit.create_model("bcos_vit_digits", pretrained=True)
    >>> explainer = bcos_vit.compile_explainer(model, backend="eager")  # which traces only
    >>> explainer(torch.rand(3, 3, 8, 8)).check()
    <Explanation (inherent) of 3 images of 8 x 8; largest relative residual ...e-0...>

    Nothing is compiled here but at the first call, and again for images of another size or dtype, for another number of
    targets an image (a program is as long as it has targets), and for a model that was changed in more than the values
    of its weights. On one CPU core the first program of ``bcos_simple_vit_ti_patch16_224`` took 62 s, and 7 s where
    torch's cache on disk had it (``benchmarks/cold_start.py``). Then one image took 0.61 and eight took 0.81 of the
    time of :func:`explain` (``make bench``): on a CPU the 62 s are regained after some thousands of images.

    The weights are those that the model has when the explainer is called. It may be called by several threads, and
    inside ``torch.no_grad``, ``torch.inference_mode`` and autocast; a program uses as many threads as torch did when it
    was compiled.

    Parameters
    ----------
    model
        A B-cos model, wrapped or not, as :func:`explain` takes it.
    targets
        ``"predicted"``: ``explainer(images)`` explains the predicted class. ``"input"``: ``explainer(images, target)``
        explains any target that :func:`explain` takes, but for units inside the network. Neither shifts images.
    backend
        What compiles, as of :func:`torch.compile`; ``"eager"`` traces only.

    Returns
    -------
    Explainer
        ``explainer(images)`` or ``explainer(images, target)`` -> :class:`Explanation`, equal to that of :func:`explain`
        within 1e-5 of the largest value of each field (float32). ``images`` are (B, 3, H, W) RGB in [0, 1], and are
        taken all at once: the memory grows with B. ``check_values=False`` leaves out the search for NaN and values
        outside [0, 1].

    Raises
    ------
    ValueError, TypeError
        As :func:`explain` does for a model that has no linear map; for other ``targets``; the explainer for images or a
        target that do not fit, or for hooks on modules, which no program would run.
    RuntimeError
        If there is no compiler that Inductor could use, with what to install.
    """
    if targets not in get_args(Targets):
        raise ValueError(f"targets must be 'predicted' or 'input', found {targets!r}")
    module = cast(nn.Module, explainable(model))
    device = next((p.device.type for p in module.parameters()), "cpu")
    if backend == "inductor" and (missing := missing_compiler(device)):
        raise RuntimeError(f"an explainer for {device} cannot be compiled: {missing}; bcos_vit.explain needs none")
    return Explainer(model, targets, backend)


@dataclass
class _Kind:
    """Images of one size and dtype."""

    logits: Tensor
    """(1, K) of one of them."""
    programs: dict[tuple[Any, ...], list[Program]] = field(default_factory=dict)
    """What chooses the classes, and the number of targets -> programs, of which most often one fits any batch."""


class Explainer:
    """Explains by compiled programs. Made by :func:`compile_explainer`."""

    def __init__(self, model: nn.Module, targets: Targets, backend: str) -> None:
        self.model = model
        self.targets = targets
        self._backend = backend
        self._lock = Lock()
        self._form: list[tuple[Any, ...]] = []
        self._kinds: dict[tuple[Any, ...], _Kind] = {}

    def __call__(
        self, images: Tensor, target: Target = None, *, shifts: None = None, check_values: bool = True
    ) -> Explanation:
        """Explain ``images`` (B, 3, H, W) in [0, 1] by the weights that the model has now; as they are, not shifted."""
        self._require(target)
        if shifts is not None:
            raise ValueError(
                f"a compiled explainer shifts no images (shifts={shifts!r}): bcos_vit.explain(model, images, target, "
                "shifts=n) does"
            )
        model = cast(nn.Module, explainable(self.model))
        checks.require_float(images, "images")
        if check_values:
            checks.check_values(images)
        form, weights = _form_and_weights(model)
        device = next(iter(weights.values())).device
        if images.device != device:
            raise ValueError(f"images are on {images.device} but the model is on {device}: move one with .to(device)")
        # Ordinary tensors, wherever the caller is, and products as explain computes them.
        with torch.inference_mode(False), torch.no_grad(), ieee_float32():
            shown = images.detach().clone(memory_format=torch.contiguous_format)
            with self._lock:  # of several threads one compiles, and the others wait
                kind = self._kind(model, form, shown)
                chosen = self._chosen(target, kind.logits.expand(len(shown), -1))
                inputs = (shown, chosen.coefficients.contiguous()) if isinstance(chosen, Resolved) else (shown,)
                program = self._program(kind, model, weights, inputs, chosen)
            with torch.autocast(device.type, enabled=False):  # its casts are in the program
                found = program.run(*weights.values(), *inputs)
            fields = {"images": shown, **dict(zip(program.fields, found, strict=True))}
            e = Explanation._of(fields, program.words)
            return _of_target(e, chosen) if isinstance(chosen, Resolved) else e

    def _require(self, target: Target) -> None:
        if self.targets == "predicted" and target is not None:
            raise ValueError(
                "this explainer was made for the predicted class: leave the target out, or make one with "
                "compile_explainer(model, targets='input')"
            )
        if self.targets == "input" and target is None:
            raise ValueError(
                "this explainer was made for given targets: give one, or make one for the predicted class with "
                "compile_explainer(model)"
            )
        if isinstance(target, Unit):
            raise TypeError(f"a compiled explainer knows no units inside the network ({target}): bcos_vit.explain does")

    def _kind(self, model: Any, form: list[tuple[Any, ...]], images: Tensor) -> _Kind:
        if form != self._form:
            self._form, self._kinds = form, {}
        device = images.device.type
        mixed = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        name = (images.shape[1:], images.dtype, mixed)
        if name not in self._kinds:
            with frozen():  # logits as an explanation has them, and a sentence where something does not fit
                self._kinds[name] = _Kind(model.forward_encoded(model.encode(images[:1])))
        return self._kinds[name]

    def _chosen(self, target: Target, logits: Tensor) -> TopK | Resolved | None:
        """What is explained, as far as that can be known before there are logits; here only their shape counts."""
        if isinstance(target, TopK):
            resolve(target, logits)  # says what does not fit
            return target
        return None if target is None else resolve(target, logits)

    def _program(
        self,
        kind: _Kind,
        model: nn.Module,
        weights: dict[str, Tensor],
        inputs: tuple[Tensor, ...],
        chosen: TopK | Resolved | None,
    ) -> Program:
        from bcos_vit.explanation.tracing import compiled_program  # loads torch's compiler, for a second or two

        by_logits = None if isinstance(chosen, Resolved) else chosen
        programs = kind.programs.setdefault((by_logits, *(t.shape[1:] for t in inputs[1:])), [])
        batch = len(inputs[0])
        for program in programs:
            if program.fits(batch):
                return program
        program = compiled_program(model, weights, inputs, by_logits, self._backend)
        if not program.fits(batch):
            raise ValueError(f"{type(model).__name__} asks for the number of images: explain them by bcos_vit.explain")
        programs.append(program)
        return program


def _of_target(e: Explanation, target: Resolved) -> Explanation:
    """What was explained as a sum of logits, as the target that it was."""
    probability = e.logit.sigmoid() if target.against is None and target.of == LOGIT else None
    return dataclasses.replace(e, target=target.classes, against=target.against, of=target.of, probability=probability)


def _form_and_weights(model: nn.Module) -> tuple[list[tuple[Any, ...]], dict[str, Tensor]]:
    """All that a program takes for granted of a model, and by name what is handed to it: parameters and buffers."""
    form: list[tuple[Any, ...]] = []
    weights: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        if any(hooks):
            where = f"{type(module).__name__} {path!r}"
            raise ValueError(f"{where} has a hook, which a compiled explainer would not run: use bcos_vit.explain")
        form.append((module,))
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                where = f"{type(module).__name__} {path!r}"
                raise ValueError(
                    f"{where} holds a tensor {name!r} that is no parameter or buffer, of which a compiled explainer "
                    "would not see changes: register it with register_buffer, or use bcos_vit.explain"
                )
            if isinstance(value, _PLAIN):
                form.append((name, value))
        for name, t in (*module._parameters.items(), *module._buffers.items()):
            if t is not None:
                weights[f"{path}.{name}" if path else name] = t
                form.append((name, t.shape, t.stride(), t.dtype, t.device))
    return form, weights
