"""What a training step costs: a B-cos model, its conventional twin and the reference's same model, in turns.

    python benchmarks/train_step.py                                  ViT-Ti/16 and ViTC-S
    python benchmarks/train_step.py --models bcos_simple_vit_s_patch16_224 --batch 256 --rounds 30       on a GPU

A step is forward, loss, backward, clipping and the optimiser's step, each model with its own family's recipe, on
random images that lie on the device already. The reference is the ``bcos`` package, with its own loss and clipping; it
gets its six channels ready-made. All as it is and compiled; on a CPU in float32, on a GPU in bfloat16 (autocast).

Columns: the ratio of the step's time to the twin's (median and quartiles over the rounds), images per second, the same
without clipping and optimiser (forward, loss and backward), how much
of the speed of a large matrix product on this machine is reached (by torch's count of operations, which includes what
fused attention computes twice), and memory: on a GPU what a step takes at its peak besides weights and moments, on a
CPU what forward keeps for backward.
"""

from __future__ import annotations

import argparse
import functools
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bcos.models.pretrained
import torch
from bcos.modules.losses import UniformOffLabelsBCEWithLogitsLoss
from bcos.training.agc import adaptive_clip_grad_
from hydra import compose, initialize_config_dir
from timing import in_turns, ratio
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

import bcos_vit
from bcos_vit.config import build
from bcos_vit.training import Classifier

CONFIGS = Path(__file__).parents[1] / "configs"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Step:
    """One step of the optimiser, again and again, on the same images."""

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        clip: Callable[..., object],
        optimizer: Callable[..., Any],
        images: Tensor,
    ) -> None:
        self.model, self.loss, self.clip = model.to(DEVICE).train(), loss.train(), clip
        self.optimizer = optimizer(model.parameters())
        self.images = images
        self.targets = torch.randint(1000, (len(images),), device=DEVICE)

    def forward(self) -> Tensor:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
            found: Tensor = self.loss(self.model(self.images), self.targets)
        return found

    def learn(self) -> None:
        """Forward, loss and backward alone."""
        self.forward().backward()
        self.optimizer.zero_grad()

    def __call__(self) -> None:
        self.forward().backward()
        self.clip(self.model.parameters())
        self.optimizer.step()
        self.optimizer.zero_grad()

    def operations(self) -> int:
        """Floating-point operations of forward and backward, as torch counts them."""
        with FlopCounterMode(display=False) as counter:
            self.forward().backward()
        self.optimizer.zero_grad()
        return counter.get_total_flops()

    def memory(self) -> int:
        """Bytes: of a GPU what a step takes at its peak, else what forward keeps for backward besides the weights."""
        if DEVICE == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            self()
            return torch.cuda.max_memory_allocated() - before
        weights = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        kept: dict[int, int] = {}

        def keep(t: Tensor) -> Tensor:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with saved_tensors_hooks(keep, lambda t: t):
            loss = self.forward()
        del loss
        return sum(size for place, size in kept.items() if place not in weights)


def ours(name: str, images: Tensor, *, compiled: bool = False, **fields: Any) -> Step:
    """A model of ours, with these fields of its spec, and the recipe of ``configs/experiment/imagenet/NAME.yaml``."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", [f"experiment=imagenet/{name}"])
    classifier: Classifier = build(config.recipe.classifier)(model=bcos_vit.create_model(name, **fields), recipe={})
    if compiled:
        classifier.model.compile()
    return Step(classifier.model, classifier.loss, classifier.clip, classifier.optimizer, images)


def reference(name: str, images: Tensor, *, compiled: bool = False) -> Step:
    """The same model of the reference with its own loss, clipping and optimiser."""
    model = getattr(bcos.models.pretrained, name.removeprefix("bcos_"))(pretrained=False)
    if compiled:
        model.compile()
    encoded = torch.cat((images, 1 - images), dim=1)
    adam = functools.partial(torch.optim.Adam, lr=1e-3)
    return Step(model, UniformOffLabelsBCEWithLogitsLoss(), adaptive_clip_grad_, adam, encoded)


def matrix_speed() -> float:
    """Operations a second of a large matrix product, in the precision of the steps."""
    side, dtype = (8192, torch.bfloat16) if DEVICE == "cuda" else (2048, torch.float32)
    a, b = (torch.randn(side, side, device=DEVICE, dtype=dtype) for _ in range(2))
    times = in_turns({"product": lambda: a @ b}, 10, wait)["product"]
    return 2 * side**3 / min(times)


def wait() -> None:
    """Until the device has finished."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Time the steps and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["bcos_simple_vit_ti_patch16_224", "bcos_vitc_s_patch1_14"])
    parser.add_argument(
        "--batch", type=int, default=256 if DEVICE == "cuda" else 8, help="images (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=None, help="of the CPU (default: all)")
    given = parser.parse_args()
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    machine = (
        torch.cuda.get_device_name() if DEVICE == "cuda" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    peak = matrix_speed()
    print(f"{machine}, torch {torch.__version__}, {given.batch} images, {given.rounds} rounds")
    print(f"a large matrix product: {peak / 1e12:.3g} TFLOP/s\n")
    memory = "step MiB" if DEVICE == "cuda" else "kept MiB"
    print(f"| step | time / twin's | images/s | without optimiser | of the product's speed | {memory} |")
    print("|---|---|---|---|---|---|")
    for name in given.models:
        images = torch.rand(given.batch, 3, 224, 224, device=DEVICE)
        twin = name.replace("bcos_", "standard_").replace("_rope", "")
        operations: dict[str, int] = {}
        for compiled in (False, True):
            steps = {name: ours(name, images, compiled=compiled), twin: ours(twin, images, compiled=compiled)}
            if "rope" not in name:
                steps[f"{name} of bcos"] = reference(name, images, compiled=compiled)
            if not compiled:  # whose operations would not all be seen
                operations = {label: step.operations() for label, step in steps.items()}
            seconds = in_turns(steps, given.rounds, wait)
            learning = in_turns({label: step.learn for label, step in steps.items()}, given.rounds, wait)
            for label, step in steps.items():
                middle = statistics.median(seconds[label])
                cells = [
                    f"{label}{', compiled' if compiled else ''}",
                    ratio(seconds[label], seconds[twin]),
                    f"{given.batch / middle:.1f}",
                    f"{given.batch / statistics.median(learning[label]):.1f}",
                    f"{operations[label] / middle / peak:.0%}",
                    f"{step.memory() / 2**20:.0f}",
                ]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"\n{time.perf_counter() - start:.0f} s")
