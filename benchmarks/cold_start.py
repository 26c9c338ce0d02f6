"""What compiling costs before it pays: the first call, with nothing on disk and with torch's cache on disk.

    python benchmarks/cold_start.py                                  ViT-Ti/16: forward, explanation, learning step
    python benchmarks/cold_start.py --models bcos_vit_digits

Every figure is of a fresh process with a cache folder of its own: the first process finds it empty, the second as the
first left it. Seconds are those that processors worked, compilers included, one after the other: on a machine that does
nothing else the first call takes as long on one core, and less where several compile at once.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from train_step import DEVICE, ours, wait

import bcos_vit

WORKS = ("forward", "explain", "learning step")
CACHE, THREADS = "TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS"


def work_of(name: str, work: str) -> Callable[[], object]:
    """What is called first, compiled at its first call."""
    model = bcos_vit.create_model(name).eval().to(DEVICE)
    side = model.spec.image_size
    images = torch.rand(8, 3, side, side, device=DEVICE)
    if work == "explain":
        return lambda: bcos_vit.compile_explainer(model)(images)
    if work == "learning step":
        return ours(name, images, compiled=True)
    model.compile()
    return torch.no_grad()(lambda: model(images))


def seconds_of_a_process(name: str, work: str, cache: str) -> float:
    """Seconds of processors for the first call of ``work`` in a fresh process with this cache folder."""
    command = [sys.executable, __file__, "--once", name, work]
    done = subprocess.run(
        command, env=os.environ | {CACHE: cache, THREADS: "1"}, capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["bcos_simple_vit_ti_patch16_224"])
    parser.add_argument("--once", nargs=2, metavar=("MODEL", "WORK"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        work = work_of(*given.once)
        before = os.times()
        work()
        wait()
        print(sum(os.times()[:4]) - sum(before[:4]))  # of this process and of those that it has waited for
        return
    machine = torch.cuda.get_device_name() if DEVICE == "cuda" else platform.machine()
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| model | work | first call, s | with the cache on disk, s | cache, MiB |\n|---|---|---|---|---|")
    for name in given.models:
        for work in WORKS:
            with tempfile.TemporaryDirectory() as cache:
                cold, warm = (seconds_of_a_process(name, work, cache) for _ in range(2))
                size = sum(path.stat().st_size for path in Path(cache).rglob("*") if path.is_file()) / 2**20
            print(f"| {name} | {work} | {cold:.0f} | {warm:.0f} | {size:.0f} |", flush=True)


if __name__ == "__main__":
    main()
