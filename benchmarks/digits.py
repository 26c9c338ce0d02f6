"""Cross-validation of the recipes of the shipped models, on the digits that are not the test part's.

    python benchmarks/digits.py                                         both recipes as they are
    python benchmarks/digits.py --arm "ema=0.99" --arm "recipe.epochs=100 ema=0.99" --models bcos_vit_digits

Every arm is a set of overrides of ``train.py``, tried on five folds of the 1,437 images that are not the test part's,
with the number of the fold as the seed: the fold takes the place of the test part (``+data.dataset.fold=N``), and 180
others choose the checkpoint. The table shows accuracies in percent with 95 % intervals of their means (Student's t),
and the difference from the twin's first arm, fold by fold. ``--results FILE`` keeps every run, and skips those that it
holds.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from finetune import interval

ROOT = Path(__file__).parents[1]
MODELS = ("standard_vit_digits", "bcos_vit_digits")


def accuracy(model: str, arm: str, fold: int) -> float:
    """Train once with ``train.py``; the accuracy on the fold in percent."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "run"
        words = [f"model={model}", f"+data.dataset.fold={fold}", f"seed={fold}", f"output={output}"]
        words += ["explanations.every=null", "trainer.accelerator=cpu", *shlex.split(arm)]
        subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        found = json.loads((output / "report.json").read_text())
    return 100 * float(found["accuracy"]["top1"])


def main() -> None:
    """Run every model, arm and fold, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--arm", action="append", metavar="OVERRIDES", help="may be given several times")
    parser.add_argument("--folds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--results", type=Path, help="a JSON file that grows by a line a run")
    given = parser.parse_args()
    known: dict[tuple[str, str, int], float] = {}
    if given.results is not None and given.results.exists():
        for model, arm, fold, value in map(json.loads, given.results.read_text().splitlines()):
            known[model, arm, fold] = value
    print(f"| model | overrides | {' | '.join(f'fold {fold}' for fold in given.folds)} | mean | minus the twin |")
    print("|---|---|" + "---|" * (len(given.folds) + 2))
    twin: list[float] | None = None
    for model in given.models:
        for arm in given.arm or [""]:
            values = []
            for fold in given.folds:
                if (model, arm, fold) not in known:
                    known[model, arm, fold] = accuracy(model, arm, fold)
                    if given.results is not None:
                        with given.results.open("a") as file:
                            file.write(json.dumps([model, arm, fold, known[model, arm, fold]]) + "\n")
                values.append(known[model, arm, fold])
            if twin is None and model == MODELS[0]:
                twin = values
            difference = "" if twin is None else interval([a - b for a, b in zip(values, twin, strict=True)])
            cells = " | ".join(f"{value:.2f}" for value in values)
            print(f"| {model} | {arm} | {cells} | {interval(values)} | {difference} |", flush=True)


if __name__ == "__main__":
    main()
