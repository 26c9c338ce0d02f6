"""Folders of photos."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """Makes folders with so many small photos each: ``tree({"train/cat": 2})``; photos differ in their grey."""

    def make(folders: dict[str, int]) -> Path:
        root = tmp_path / "photos"
        root.mkdir()
        for number, (name, images) in enumerate(folders.items()):
            (root / name).mkdir(parents=True)
            for image in range(images):
                Image.new("L", (9, 7), 40 * number + image).save(root / name / f"{image}.png")
        return root

    return make
