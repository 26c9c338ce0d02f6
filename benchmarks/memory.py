"""What explaining takes of memory: bytes kept for backward, and the peak of a process.

    python benchmarks/memory.py NAME ours|reference [--images 8] [--classes 1] [--side 224] [--depth 12]

prints the most memory in KiB that this fresh process took to explain once, beyond what loading everything took.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from contenders import Contenders, encoded, reference
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

import bcos_vit


def kept(c: Contenders) -> float:
    """Bytes that a forward pass keeps for backward, besides the weights, and that explanations hold: ours / theirs."""
    sizes = []
    for work, model in (
        (lambda: bcos_vit.explain(c.model, c.images, memory=2**40)._fields().values(), c.model),
        (lambda: (c.reference_gradient(),), c.reference),
    ):
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        alive: dict[int, Tensor] = {}

        def keep(t: Tensor, weights: set[int] = weights, alive: dict[int, Tensor] = alive) -> Tensor:
            if t.untyped_storage().data_ptr() not in weights:
                alive[t.untyped_storage().data_ptr()] = t.detach()  # held, so that its place is not taken by another
            return t.detach()

        with saved_tensors_hooks(keep, lambda t: t):
            outputs = list(work())
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in (*alive.values(), *outputs)}
        sizes.append(sum(storages.values()))
    return sizes[0] / sizes[1]


def peak_of_a_process(name: str, whose: str, **sizes: int) -> int:
    """The most memory, in KiB, that a fresh process takes to explain, beyond what loading everything takes."""
    words = [word for size, value in sizes.items() for word in (f"--{size}", str(value))]
    command = [sys.executable, __file__, name, whose, *words]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def peak() -> int:
    """The most memory that this process has taken so far, in KiB, as Linux tells it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(row.split()[1]) for row in status.splitlines() if row.startswith("VmHWM"))


def main() -> None:
    """Explain once and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("whose", choices=("ours", "reference"))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--classes", type=int, default=1)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--depth", type=int, default=12)
    given = parser.parse_args()
    images = torch.rand(given.images, 3, given.side, given.side)
    before = peak()
    if given.whose == "ours":
        model = bcos_vit.create_model(given.name, image_size=given.side, depth=given.depth).eval()
        target = None if given.classes == 1 else bcos_vit.TopK(given.classes)
        bcos_vit.explain(model, images, target)
    else:
        theirs, inputs = reference(given.name), encoded(images).requires_grad_()
        with theirs.explanation_mode():
            logits = theirs(inputs)
        torch.autograd.grad(logits.amax(1).sum(), inputs)
    print(peak() - before)


if __name__ == "__main__":
    main()
