"""Fine-tuning against training from scratch, at the same number of steps, on real data that needs no download.

    python benchmarks/finetune.py                   both tasks, seeds 0, 1, 2; a table of means with 95 % intervals
    python benchmarks/finetune.py --seeds 0 --epochs 1 --tasks parity
    python benchmarks/finetune.py --model standard_vit_digits       the twin

Both arms start with ``bcos_vit_digits``, once with its trained weights (``experiment=finetune``), once without (its own
recipe, warm-up over a tenth of the steps). Tasks:

parity  Odd or even, of scikit-learn's handwritten digits: the split of ``bcos_vit.data.Digits``, which the trained
        weights have seen with other labels. 8 x 8 pixels, no augmentation.
photos  Which of twelve photos (scikit-image's and scikit-learn's) a crop of 32 x 32 pixels is from, read at 16 x 16.
        Left 60 % of each photo to train, next 15 % to choose, right 25 % to test, so that crops share no pixel.

Training is that of ``train.py``, in a process of its own for every run; its test accuracy is in its ``report.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import skimage
from PIL import Image
from scipy.stats import t as student
from sklearn.datasets import load_sample_images

from bcos_vit.data import Digits
from bcos_vit.photos import read_photo

ROOT = Path(__file__).parents[1]
PHOTOS = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "ihc", "moon")
CROP, HEIGHT = 32, 256
PARTS = {"train": (0.0, 0.6, 60), "val": (0.6, 0.75, 15), "test": (0.75, 1.0, 40)}  # from, to, crops of a photo
PLAIN = "data.train_transform=${data.eval_transform}"
TASKS = {"parity": ("image_size=8", PLAIN), "photos": ("image_size=16",)}
ARMS = ("fine-tuned", "from scratch")


def make_parity(root: Path) -> None:
    """``root/PART/{even,odd}/NUMBER.png``, every digit in the part that it has in the data set."""
    for part in PARTS:
        digits = Digits(part)
        for name in ("even", "odd"):
            (root / part / name).mkdir(parents=True)
        for number, (image, label) in enumerate(zip(digits.images, digits.labels, strict=True)):
            grey = np.rint(image[0].numpy() * 255).astype(np.uint8)
            Image.fromarray(grey).save(root / part / ("even", "odd")[int(label) % 2] / f"{number:04}.png")


def make_photos(root: Path) -> None:
    """``root/PART/PHOTO/NUMBER.png``: random crops of the part's own strip of each photo."""
    folder = Path(skimage.__file__).parent / "data"
    photos = {name: read_photo(folder / f"{name}.png") for name in PHOTOS}
    samples = load_sample_images()
    photos |= {
        Path(name).stem: Image.fromarray(image) for name, image in zip(samples.filenames, samples.images, strict=True)
    }
    random = np.random.default_rng(0)
    for name, photo in photos.items():
        width = round(photo.width * HEIGHT / photo.height)
        photo = photo.resize((width, HEIGHT))
        for part, (start, end, count) in PARTS.items():
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                left = int(random.integers(round(start * width), round(end * width) - CROP + 1))
                top = int(random.integers(HEIGHT - CROP + 1))
                photo.crop((left, top, left + CROP, top + CROP)).save(root / part / name / f"{number:03}.png")


def accuracy(model: str, task: str, arm: str, seed: int, epochs: int, data: Path, output: Path) -> float:
    """Train once with ``train.py``; the accuracy on the test part in percent."""
    images = sum(1 for _ in (data / "train").rglob("*.png"))
    family = model.partition("_")[0]
    if arm == "fine-tuned":
        words = ["experiment=finetune", f"recipe={family}_finetune", f"model.name={model}"]
    else:
        words = [f"model={model}", f"recipe.classifier.schedule.warmup_steps={max(1, epochs * -(-images // 64) // 10)}"]
    words += ["data=folder", f"data.root={data}", "data.num_workers=0", f"recipe.epochs={epochs}", f"seed={seed}"]
    words += ["explanations.every=null", "trainer.accelerator=cpu", f"output={output}", *TASKS[task]]
    subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    found = json.loads((output / "report.json").read_text())
    return 100 * float(found["accuracy"]["top1"])


def interval(values: list[float]) -> str:
    """Mean and half the 95 % interval of the mean (Student's t)."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.2f} ± {half:.2f}"


def main() -> None:
    """Run every task, arm and seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--model", default="bcos_vit_digits", choices=["bcos_vit_digits", "standard_vit_digits"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=8)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(f"| task | arm | {' | '.join(f'seed {seed}' for seed in given.seeds)} | mean, 95 % |")
        print("|---|---|" + "---|" * (len(given.seeds) + 1))
        for task in given.tasks:
            data = Path(scratch) / task
            {"parity": make_parity, "photos": make_photos}[task](data)
            found: dict[str, list[float]] = {arm: [] for arm in ARMS}
            for seed in given.seeds:
                for arm in ARMS:  # side by side
                    output = Path(scratch) / f"{task} {arm} {seed}"
                    found[arm].append(accuracy(given.model, task, arm, seed, given.epochs, data, output))
            found["difference"] = [a - b for a, b in zip(*found.values(), strict=True)]
            for arm, values in found.items():
                print(f"| {task} | {arm} | {' | '.join(f'{v:.2f}' for v in values)} | {interval(values)} |", flush=True)


if __name__ == "__main__":
    main()
