"""How fast photos are read: the training loader as configured for ImageNet, against torchvision's plain one, in turns.

    python benchmarks/loader.py                   32 photos of the usual size of ImageNet's, one process
    python benchmarks/loader.py --rounds 30

Both read the same JPEGs (crops of bundled photos, 500 x 375 pixels), crop, flip, RandAugment and stack them, in the one
process and thread that asks for them: images per second per core. The plain loader is torchvision's ``ImageFolder``
with the same transforms; ours is ``configs/data/imagenet.yaml``, which also turns photos upright and checks values, and
as configured mixes the batch (mixup), which torchvision's plain loader does not. The second group reads, and no more.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from skimage import data as bundled
from sklearn.datasets import load_sample_images
from timing import in_turns, ratio
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader

from bcos_vit.config import build
from bcos_vit.data import DataModule, Folder
from bcos_vit.photos import read_photo

CONFIGS = Path(__file__).parents[1] / "configs"
WIDTH, HEIGHT = 500, 375


def make_photos(root: Path, count: int) -> None:
    """``root/PART/CLASS/NUMBER.JPEG`` for two classes and the parts that there must be."""
    photos = [bundled.astronaut(), bundled.chelsea(), bundled.coffee(), bundled.rocket(), *load_sample_images().images]
    random = np.random.default_rng(0)
    for part, images in {"train": count, "val": 2}.items():
        for number in range(images):
            photo = Image.fromarray(photos[number % len(photos)])
            side = max(WIDTH / photo.width, HEIGHT / photo.height)
            photo = photo.resize((max(WIDTH, round(photo.width * side)), max(HEIGHT, round(photo.height * side))))
            left, top = random.integers(photo.width - WIDTH + 1), random.integers(photo.height - HEIGHT + 1)
            folder = root / part / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            photo.crop((left, top, left + WIDTH, top + HEIGHT)).save(folder / f"{number:05}.JPEG", quality=95)


def main() -> None:
    """Read the photos both ways, and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        make_photos(root, given.photos)
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            chosen = ["data=imagenet", "image_size=224", f"data.root={root}", f"data.batch_size={given.photos}"]
            config = compose("train", [*chosen, "data.num_workers=0"])
        data: DataModule = build(config.data, dataset=Folder)
        plain = ImageFolder(str(root / "train"), data.train_transform)
        files = [Path(path) for path, _ in plain.samples]
        loaders = {"ours, as configured": data.train_dataloader()}
        data.mix = None
        loaders |= {
            "ours, without mixing": data.train_dataloader(),
            "torchvision's": DataLoader(plain, given.photos, shuffle=True),
        }
        pairs: list[dict[str, Callable[[], object]]] = [
            {name: lambda loader=loader: list(loader) for name, loader in loaders.items()},
            {
                "ours, reading alone": lambda: [read_photo(file) for file in files],
                "torchvision's, reading alone": lambda: [default_loader(str(file)) for file in files],
            },
        ]
        size = statistics.mean(file.stat().st_size for file in files) / 1024
        print(f"{platform.machine()}, torch {torch.__version__}, one core, {len(files)} JPEGs of {size:.0f} KiB")
        print("\n| loader | speed / torchvision's | images/s per core |\n|---|---|---|")
        for pair in pairs:
            seconds = in_turns(pair, given.rounds)
            *_, base = pair
            for name in pair:
                rate = len(files) / statistics.median(seconds[name])
                print(f"| {name} | {ratio(seconds[base], seconds[name])} | {rate:.0f} |", flush=True)


if __name__ == "__main__":
    main()
