"""The one data module: any data set with a training, a validation and a test part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from bcos_vit.checks import check_values

Transform = Callable[[Any], Tensor]


class Part(Protocol):
    """One part of a data set; its items are ((3, H, W) in [0, 1], class number)."""

    @property
    def class_names(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...


class Parts(Protocol):
    """Makes the parts of a data set."""

    def __call__(self, split: str, transform: Transform | None) -> Part: ...


class DataModule(LightningDataModule):
    """Loaders over the parts of a data set; every batch is checked for NaN and values outside [0, 1].

    Parameters
    ----------
    dataset
        Called with ``split`` ("train", "val" or "test") and ``transform``.
    batch_size
        Images per step and device.
    num_workers
        Processes that load; 0 loads in the training process.
    train_transform, eval_transform
        torchvision v2 transforms of single images, for training and for the other two parts.
    """

    def __init__(
        self,
        dataset: Parts,
        *,
        batch_size: int,
        num_workers: int = 0,
        train_transform: Transform | None = None,
        eval_transform: Transform | None = None,
    ) -> None:
        super().__init__()
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.train_transform = train_transform
        self.eval_transform = eval_transform

    def part(self, split: str) -> Part:
        """One part of the data, with the transform that belongs to it."""
        return self.dataset(split=split, transform=self.train_transform if split == "train" else self.eval_transform)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        return tuple(self.part("val").class_names)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader("test")

    def _loader(self, split: str, *, shuffle: bool = False) -> DataLoader[Any]:
        part = self.part(split)
        if not len(part):
            raise ValueError(f"the {split} part of the data is empty")
        return DataLoader(
            cast(Dataset[Any], part),
            self.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=_checked,
        )


def _checked(items: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    images, labels = default_collate(items)
    check_values(images)
    return images, labels
