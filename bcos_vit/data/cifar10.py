"""CIFAR-10 (A. Krizhevsky, 2009): 60,000 photos of 32 x 32 pixels, downloaded only when told to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock
from sklearn.model_selection import train_test_split
from torch.utils.data import Dataset
from torchvision import datasets

from bcos_vit.paths import user_path

VALIDATION = 5000


class CIFAR10(Dataset[tuple[Any, int]]):
    """One part of CIFAR-10; items are (photo, class number).

    The split is fixed and stratified: 45,000 of the training images to train, 5,000 to choose the checkpoint, and the
    10,000 test images to be evaluated once at the end.

    Parameters
    ----------
    split
        ``"train"``, ``"val"`` or ``"test"``.
    transform
        PIL image -> (3, H, W) in [0, 1].
    root
        The folder that holds ``cifar-10-batches-py``.
    download
        Fetch the 170 MB from the data set's site if they are not there; safe with several processes.

    Raises
    ------
    OSError
        If the data are missing or damaged (``FileNotFoundError``), or cannot be downloaded.
    ValueError
        For another split.
    """

    licence = "none is stated by the authors of CIFAR-10, https://www.cs.toronto.edu/~kriz/cifar.html"

    def __init__(
        self, split: str, transform: Callable[[Any], Any] | None = None, *, root: str, download: bool = False
    ) -> None:
        if split not in ("train", "val", "test"):
            raise ValueError(f"split must be train, val or test, found {split!r}")
        self.photos = _open(str(user_path(root)), split != "test", download)
        self.class_names = tuple(self.photos.classes)
        self.transform = transform
        indices = range(len(self.photos))
        if split != "test":
            train, val = train_test_split(indices, test_size=VALIDATION, stratify=self.photos.targets, random_state=0)
            indices = train if split == "train" else val
        self.indices: list[int] = list(indices)
        self.targets = [self.photos.targets[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        photo, label = self.photos[self.indices[index]]
        return photo if self.transform is None else self.transform(photo), label


def _open(root: str, train: bool, download: bool) -> datasets.CIFAR10:
    if download:
        Path(root).mkdir(parents=True, exist_ok=True)
        with FileLock(Path(root) / ".cifar10.lock"):
            try:
                return datasets.CIFAR10(root, train, download=True)
            except (RuntimeError, OSError) as error:
                reason = str(error).rstrip(".")
                raise OSError(
                    f"CIFAR-10 cannot be downloaded from {datasets.CIFAR10.url} to {root}: {reason}; try again, or "
                    f"unpack cifar-10-python.tar.gz there"
                ) from error
    try:
        return datasets.CIFAR10(root, train)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"CIFAR-10 is missing from {root}, or damaged: download it with data.dataset.download=true (170 MB), or "
            f"unpack cifar-10-python.tar.gz there"
        ) from error
