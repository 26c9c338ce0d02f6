"""What to do about the lattice of weights that were trained with strides: explain over shifts, or switch and fine-tune.

    python benchmarks/without_lattice.py                  seeds 0, 1, 2, on shapes
    python benchmarks/without_lattice.py --untrained      shifts alone, of an untrained model at 224 pixels

Begins with the strided models of ``benchmarks/downsampling.py``, which are trained first unless they are there. Ways:

strided         the weights as they are
shifts=16       the same, explained by ``explain(..., shifts=16)``; the accuracy is that of the mean logits
switched        the same weights, not fine-tuned, in a model with ``downsample="blurred"``
switched, tuned the latter after ``experiment=smooth`` for a tenth of the epochs of its training
strided, tuned  as much training without the switch, to compare with

Means over the seeds with 95 % intervals (Student's t) on the 1,000 test images of ``benchmarks/shapes.py``.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from downsampling import COLUMNS, ROOT, RUNS, measured
from finetune import interval
from shapes import measure
from skimage.data import astronaut
from timing import in_turns, ratio

from bcos_vit import ViT, create_model, explain
from bcos_vit.metrics import lattice_period, lattice_share, white_noise_share

SHIFTS = 16
PART = 10
"""Training is so many times as long as fine-tuning."""
WORDS = ("data=shapes", "data.dataset.plain_epochs=0", "data.dataset.canvases_from=0", "recipe.batch_size=32")
"""Of ``train.py``: images as at the end of training, in batches of that size."""


def tuned(path: Path, seed: int, *words: str) -> ViT:
    """The model in ``path`` after a little more training, which is done unless it is there."""
    folder = RUNS / "_".join(["tuned", *(word.rpartition("=")[2] for word in words), str(seed)])
    epochs = create_model(path).about["recipe"]["recipe"]["epochs"] // PART
    if not (folder / "report.json").exists():
        given = [f"model.name={path}", f"seed={seed}", f"output={folder}", f"recipe.epochs={epochs}", *words]
        given += ["explanations.every=null", "trainer.accelerator=cpu"]
        command = [sys.executable, "train.py", "experiment=smooth", *WORDS, *given]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return create_model(folder / "model.safetensors")


def ways(seed: int) -> dict[str, dict[str, Any]]:
    """The figures of every way for the strided model of one seed."""
    measured("strided", seed, [])  # trained by now
    path = RUNS / f"strided_{seed}" / "model.safetensors"
    strided = create_model(path)
    return {
        "strided": measure(strided),
        f"shifts={SHIFTS}": measure(strided, shifts=SHIFTS),
        "switched": measure(create_model(path, downsample="blurred")),
        "switched, tuned": measure(tuned(path, seed)),
        "strided, tuned": measure(tuned(path, seed, "model.downsample=strided")),
    }


def table(found: list[dict[str, dict[str, Any]]]) -> str:
    """Means over seeds, a row a way, and the largest relative residual."""
    lines = ["| way | " + " | ".join(name.replace("_", " ") for name in COLUMNS) + " | largest residual |"]
    lines.append("|---|" + "---|" * (len(COLUMNS) + 1))
    for way in found[0]:
        records = [of_a_seed[way] for of_a_seed in found]
        figures = [[100 * record[name] for record in records if name in record] for name in COLUMNS]
        cells = [interval(cell) if cell else "" for cell in figures]
        lines.append(f"| {way} | {' | '.join(cells)} | {max(r['residual'] for r in records):.1e} |")
    return "\n".join(lines)


def untrained() -> str:
    """Lattice, ledger and time of explanations of one photo by a ViTC-Ti with random weights."""
    torch.manual_seed(0)
    model = create_model("bcos_vitc_ti_rope_patch1_14")
    image = model.transform(astronaut())[None]
    counts = (None, SHIFTS)
    works = {f"shifts={count}": functools.partial(explain, model, image, shifts=count) for count in counts}
    seconds = in_turns(works, rounds=3)
    noise = 100 * white_noise_share(224, 224, lattice_period(model))
    lines = [f"| | lattice share (white noise {noise:.2f} %) | relative residual | time |", "|---|---|---|---|"]
    for name, work in works.items():
        e = work().check()
        share = 100 * float(lattice_share(e.contributions, lattice_period(model)))
        times = ratio(seconds[name], seconds["shifts=None"])
        lines.append(f"| {name} | {share:.2f} % | {float(e.relative_residual):.1e} | {times} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--untrained", action="store_true", help="an untrained model at 224 pixels instead")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    given = parser.parse_args()
    if given.untrained:
        print(untrained())
        return
    found = [ways(seed) for seed in given.seeds]
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
