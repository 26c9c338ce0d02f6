"""``speed.compile``: how long compiling takes is said beforehand, and ``auto`` compiles where the run repays it."""

from __future__ import annotations

import math
import statistics
import time
from typing import Any, Literal, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer

from bcos_vit.compiler import missing_compiler
from bcos_vit.models.vit import require_vit

Compile = bool | Literal["auto"]
WARM_UP, TIMED = 5, 15
"""Micro-batches that ``auto`` runs uncompiled: those that are not counted, and those that are."""
SAVED = {("cpu", "bcos"): 0.15, ("cpu", "standard"): 0.0, ("cuda", "bcos"): 0.4, ("cuda", "standard"): 0.2}
"""The share of a micro-batch's time that compiling is assumed to save. Measured on a CPU; never on a GPU, where fewer
passes over memory are counted."""
COLD_START = (90.0, 12.0)
"""Seconds that compiling is assumed to take, and more for every block: measured on one core (docs/imagenet.md)."""


class Estimate(NamedTuple):
    """What ``auto`` decides by.

    >>> estimate = Estimate(micro_batches=50_000, seconds=0.2, saved=0.4, cold_start=120)
    >>> estimate.pays, str(estimate)
    (True, '50,000 micro-batches of 0.2 s remain; compiling is assumed to save 40 % of that, 67 min, and to take 120 s')
    """

    micro_batches: float
    """That remain on each device."""
    seconds: float
    """Of one, uncompiled."""
    saved: float
    """The share of it that compiling is assumed to save."""
    cold_start: float
    """Seconds that compiling is assumed to take."""

    @property
    def gain(self) -> float:
        """Seconds that are assumed to be saved, without those of compiling."""
        return self.micro_batches * self.seconds * self.saved

    @property
    def pays(self) -> bool:
        """Whether more is saved than compiling takes."""
        return self.gain > self.cold_start

    def __str__(self) -> str:
        remain = f"{self.micro_batches:,.0f} micro-batches of {duration(self.seconds)} remain"
        gain = f"compiling is assumed to save {100 * self.saved:.0f} % of that, {duration(self.gain)}"
        return f"{remain}; {gain}, and to take {duration(self.cold_start)}"


class Compilation(Callback):
    """Says beforehand how long compiling takes; with ``"auto"``, times the first steps and decides by them.

    The first :data:`WARM_UP` + :data:`TIMED` micro-batches run uncompiled. If what remains of the run is
    estimated to gain more than compiling takes, the model is compiled in place, and what it brought is said later.

    Parameters
    ----------
    compile
        ``True``, where the model is compiled already, or ``"auto"``.
    """

    def __init__(self, compile: Literal[True, "auto"]) -> None:
        self.deciding = compile == "auto"
        self.plain: list[float] = []
        self.compiled: list[float] = []
        self.timing = self.deciding
        self.start = 0.0

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        if not self.deciding:
            expected = duration(cold_start(module))
            _say(
                trainer,
                f"true: compiling takes about {expected}, most of it at the start; less where torch has kept it",
            )

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if not self.deciding:
            return
        missing = missing_compiler(module.device.type)
        if not trainer.strategy.reduce_boolean_decision(missing is None):  # in all processes alike
            self.timing = False
            _say(trainer, f"auto: the model is not compiled: there is {missing or 'no compiler for another process'}")
        elif (left := remaining(trainer)) <= WARM_UP + TIMED:
            self.timing = False
            _say(trainer, f"auto: the model is not compiled: {left:,.0f} micro-batches are too few")

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.timing:
            self.start = _now(module.device)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.timing:
            return
        seconds = _now(module.device) - self.start
        if self.deciding:
            self.plain.append(seconds)
            if len(self.plain) == WARM_UP + TIMED:
                self._decide(trainer, module)
            return
        self.compiled.append(seconds)
        if len(self.compiled) == WARM_UP + TIMED:
            self.timing = False
            now, before = (statistics.median(times[WARM_UP:]) for times in (self.compiled, self.plain))
            took = duration(self.compiled[0])
            turned_out = f"a compiled micro-batch takes {now / before:.2f} of the time of an uncompiled one"
            _say(trainer, f"auto: {turned_out}; the first one, with compiling, took {took}")

    def _decide(self, trainer: Trainer, module: LightningModule) -> None:
        typical = statistics.median(self.plain[WARM_UP:])
        saved = SAVED.get((module.device.type, require_vit(module).spec.family), 0.0)
        estimate = Estimate(remaining(trainer), typical, saved, cold_start(module))
        self.deciding = False
        self.timing = trainer.strategy.broadcast(estimate.pays)  # the clocks of processes differ
        _say(trainer, f"auto: the model is {'compiled now' if self.timing else 'not compiled'}: {estimate}")
        if self.timing:
            require_vit(module).compile()


def remaining(trainer: Trainer) -> float:
    """Micro-batches that each device has still to take, as far as the trainer knows; callbacks may end it earlier."""
    steps = trainer.estimated_stepping_batches - trainer.global_step
    batches = trainer.num_training_batches  # of an epoch, whose last step may have fewer than the others
    return steps * batches / math.ceil(batches / trainer.accumulate_grad_batches)


def cold_start(module: LightningModule) -> float:
    """Seconds that compiling the model is assumed to take."""
    once, per_block = COLD_START
    return once + per_block * require_vit(module).spec.depth


def duration(seconds: float) -> str:
    """In a unit that suits it.

    >>> duration(0.21), duration(95), duration(1300), duration(9000)
    ('0.21 s', '95 s', '22 min', '2.5 h')
    """
    if seconds < 150:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.2g} h"


def require_compiler(device: str) -> None:
    """Raise ``ValueError`` where ``speed.compile=true`` cannot be done on this type of device."""
    if reason := missing_compiler(device):
        raise ValueError(f"speed.compile=true, but there is {reason}; or give speed.compile=false")


def _now(device: torch.device) -> float:
    """The time, once the device has finished."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _say(trainer: Trainer, sentence: str) -> None:
    if trainer.is_global_zero:
        print(f"speed.compile={sentence}", flush=True)
