"""Folders of small photos for tests."""

from pathlib import Path

from PIL import Image


def tree(folder: Path, photos: dict[str, int]) -> Path:
    """Makes ``folder/photos`` with so many photos in each folder below: ``tree(tmp_path, {"train/cat": 2})``.

    Each folder has a grey of its own, 40 times its number, and each photo its number on top.
    """
    root = folder / "photos"
    root.mkdir()
    for number, (name, images) in enumerate(photos.items()):
        (root / name).mkdir(parents=True)
        for image in range(images):
            Image.new("L", (9, 7), 40 * number + image).save(root / name / f"{image}.png")
    return root
