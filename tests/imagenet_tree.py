"""Files in the shape of ImageNet: its 1,000 folders, with real JPEGs cut from bundled photos, and its archives."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from skimage import data as bundled
from sklearn.datasets import load_sample_images

from bcos_vit.data.imagenet import imagenet_classes

CLASSES = imagenet_classes()
"""WordNet id -> name, by class number."""
SIZE = 72
"""Pixels of a side of the usual file."""


def imagenet_tree(root: Path, *, train: int, val: int) -> Path:
    """``root/{train,val}/WORDNET_ID/NUMBER.JPEG`` with so many photos of each class, all of them different crops."""
    photos = [bundled.astronaut(), bundled.chelsea(), bundled.coffee(), bundled.rocket(), *load_sample_images().images]
    dice = np.random.default_rng(0)
    for part, count in {"train": train, "val": val}.items():
        for number, wnid in enumerate(CLASSES):
            folder = root / part / wnid
            folder.mkdir(parents=True)
            photo = photos[number % len(photos)]
            for index in range(count):
                top, left = (int(dice.integers(side - SIZE)) for side in photo.shape[:2])
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


def bare_tree(root: Path, *parts: str, photos: int = 1) -> Path:
    """``root/part/WORDNET_ID/NAME.JPEG`` with so many photos of one pixel in each of the 1,000 folders."""
    for part in parts:
        for wnid in CLASSES:
            folder = root / part / wnid
            folder.mkdir(parents=True)
            for index in range(photos):
                (folder / f"{wnid}_{index}.JPEG").write_bytes(pixel())
    return root


@cache
def pixel(grey: int = 90) -> bytes:
    """A JPEG of one pixel."""
    content = io.BytesIO()
    Image.new("L", (1, 1), grey).save(content, "JPEG")
    return content.getvalue()


# --- the archives of image-net.org ---

ARCHIVES = {
    "train": "ILSVRC2012_img_train.tar",
    "val": "ILSVRC2012_img_val.tar",
    "devkit": "ILSVRC2012_devkit_t12.tar.gz",
}
STRANGE = random.Random(0).sample(list(CLASSES), len(CLASSES))
"""The order of the devkit's own numbers, which is not that of the class numbers."""
VAL = [random.Random(1).choice(STRANGE) for _ in CLASSES] + STRANGE
"""The class of each validation photo: every class has one at least."""


def write_train_archive(root: Path) -> None:
    """An archive of 1,000 archives, of one photo each."""
    inner = {f"{wnid}.tar": _tar({f"{wnid}_7.JPEG": pixel()}) for wnid in STRANGE}
    (root / ARCHIVES["train"]).write_bytes(_tar(inner))


def write_val_archive(root: Path) -> None:
    """Photos without folders, whose names do not say of which class they are; not in the order of their names."""
    photos = {f"ILSVRC2012_val_{number + 1:08}.JPEG": pixel() for number in range(len(VAL))}
    (root / ARCHIVES["val"]).write_bytes(_tar(dict(reversed(photos.items()))))


def write_devkit(root: Path) -> None:
    """What says which class each validation photo is of; it numbers groups of classes as well, after the classes."""
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children")
    leaves = [(number + 1, wnid, f"{CLASSES[wnid]}, thing", "", 0, []) for number, wnid in enumerate(STRANGE)]
    groups = [(len(leaves) + 1, "n00001740", "entity", "", 2, [1, 2])]
    synsets = np.array(leaves + groups, dtype=[(name, object) for name in fields])[:, None]
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = "".join(f"{STRANGE.index(wnid) + 1}\n" for wnid in VAL)
    files = {"meta.mat": meta.getvalue(), "ILSVRC2012_validation_ground_truth.txt": truth.encode()}
    content = _tar({f"ILSVRC2012_devkit_t12/data/{name}": file for name, file in files.items()})
    (root / ARCHIVES["devkit"]).write_bytes(gzip.compress(content))


def _tar(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, file in files.items():
            described = tarfile.TarInfo(name)
            described.size = len(file)
            archive.addfile(described, io.BytesIO(file))
    return content.getvalue()
