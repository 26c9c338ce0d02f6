"""A tree of files in the shape of ImageNet: its 1,000 folders, with real JPEGs cut from bundled photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data as bundled
from sklearn.datasets import load_sample_images

from bcos_vit.data.imagenet import CLASSES

SIZE = 72
"""Pixels of a side of the usual file."""


def imagenet_tree(root: Path, *, train: int, val: int) -> Path:
    """``root/{train,val}/WORDNET_ID/NUMBER.JPEG`` with so many photos of each class, all of them different crops."""
    photos = [bundled.astronaut(), bundled.chelsea(), bundled.coffee(), bundled.rocket(), *load_sample_images().images]
    random = np.random.default_rng(0)
    for part, count in {"train": train, "val": val}.items():
        for number, wnid in enumerate(CLASSES):
            folder = root / part / wnid
            folder.mkdir(parents=True)
            photo = photos[number % len(photos)]
            for index in range(count):
                top, left = (int(random.integers(side - SIZE)) for side in photo.shape[:2])
                crop = Image.fromarray(photo[top : top + SIZE, left : left + SIZE])
                crop.save(folder / f"{index:05}.JPEG", quality=80)
    return root


def add_oddities(root: Path, part: str) -> dict[str, Path]:
    """What ImageNet and folders in the wild hold besides plain JPEGs: kind -> file, each in a class of its own."""
    crop = Image.open(root / part / "n01440764" / "00000.JPEG").convert("RGB")
    huge = crop.resize((9000, 6000))
    made = {
        "cmyk": (crop.convert("CMYK"), "JPEG"),
        "grey": (crop.convert("L"), "JPEG"),
        "palette": (crop.quantize(16), "PNG"),  # named .JPEG, as one file of ImageNet is
        "pixel": (crop.resize((1, 1)), "JPEG"),
        "huge": (huge, "JPEG"),
    }
    files = {}
    for wnid, (kind, (image, form)) in zip(CLASSES, made.items(), strict=False):
        files[kind] = root / part / wnid / f"odd_{kind}.JPEG"
        image.save(files[kind], form)
    return files


def add_corrupt(root: Path, part: str) -> dict[str, Path]:
    """Files that cannot be read: kind -> file, each in a class of its own in ``root/part``."""
    whole = (root / part / "n01440764" / "00000.JPEG").read_bytes()
    contents = {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"this is no image\n" * 20}
    files = {}
    for wnid, (kind, content) in zip(list(CLASSES)[500:], contents.items(), strict=False):
        files[kind] = root / part / wnid / f"corrupt_{kind}.JPEG"
        files[kind].write_bytes(content)
    return files
