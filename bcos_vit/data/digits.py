"""Real handwriting without a download: the 1,797 scans that ship with scikit-learn (UCI, E. Alpaydin, C. Kaynak)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch import Tensor
from torch.utils.data import Dataset

Split = Literal["train", "val", "test"]
TEST, VALIDATION, FOLDS = 360, 180, 5


class Digits(Dataset[tuple[Tensor, int]]):
    """8 x 8 grey scans of the ten digits, repeated to RGB: items are ((3, 8, 8) in [0, 1], class number).

    The split is fixed and stratified: 1,257 to train, 180 to choose the checkpoint, 360 to be evaluated once.

    Parameters
    ----------
    split
        ``"train"``, ``"val"`` or ``"test"``.
    transform
        Applied to the image of every item.
    fold
        For choosing a recipe by cross-validation: the 360 test images are left out altogether, the 1,437 others are
        divided into five stratified folds, and the fold of this number (0 to 4) takes the place of the test part.
        None: the fixed split.

    Raises
    ------
    ValueError
        For another split or fold.
    """

    class_names = tuple(str(digit) for digit in range(10))
    licence = (
        "CC BY 4.0, E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, doi 10.24432/C50P49"
    )

    def __init__(
        self, split: Split, transform: Callable[[Tensor], Tensor] | None = None, *, fold: int | None = None
    ) -> None:
        pixels, labels = load_digits(return_X_y=True)
        rest, test = train_test_split(range(len(labels)), test_size=TEST, stratify=labels, random_state=0)
        if fold is not None:
            rest, test = _fold(rest, labels, fold)
        train, val = train_test_split(rest, test_size=VALIDATION, stratify=labels[rest], random_state=0)
        parts = {"train": train, "val": val, "test": test}
        if split not in parts:
            raise ValueError(f"split must be train, val or test, found {split!r}")
        grey = torch.tensor(pixels[parts[split]] / 16, dtype=torch.float32).view(-1, 1, 8, 8)
        self.images = grey.expand(-1, 3, -1, -1)
        self.labels: list[int] = labels[parts[split]].tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        return image if self.transform is None else self.transform(image), self.labels[index]


def _fold(images: list[int], labels: np.ndarray, number: int) -> tuple[list[int], list[int]]:
    """The images outside the fold of that number, and those in it."""
    if isinstance(number, bool) or number not in range(FOLDS):
        raise ValueError(f"fold must be a whole number from 0 to {FOLDS - 1}, or null for none, found {number!r}")
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(images, labels[images])
    outside, inside = list(folds)[number]
    return [images[i] for i in outside], [images[i] for i in inside]
