"""The one data module: any data set with a training, a validation and a test part."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, cast

from lightning import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from bcos_vit.checks import check_values

Transform = Callable[[Any], Tensor]


class Part(Protocol):
    """One part of a data set; its items are ((3, H, W) in [0, 1], class number)."""

    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def licence(self) -> str:
        """Whose the images are and what they may be used for, kept with what was learnt from them."""
        ...

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...


class Parts(Protocol):
    """Makes the parts of a data set."""

    def __call__(self, split: str, transform: Transform | None) -> Part: ...


class DataModule(LightningDataModule):
    """Loaders over the parts of a data set; every batch is checked for NaN and values outside [0, 1].

    With several processes, each takes its share of the validation and test parts, and every image comes exactly
    once, whether or not their number divides. (Of the training part Lightning repeats a few so that shares are equal.)

    Parameters
    ----------
    dataset
        Called with ``split`` ("train", "val" or "test") and ``transform``.
    root
        Where the data lie, handed to ``dataset``; None for data that need no place.
    batch_size
        Images per step and device.
    num_workers
        Processes that load; 0 loads in the training process.
    train_transform, eval_transform
        torchvision v2 transforms of single images, for training and for evaluating any part.

    Raises
    ------
    ValueError
        For a batch size below 1 or a negative number of workers.
    """

    def __init__(
        self,
        dataset: Parts,
        *,
        batch_size: int,
        root: str | None = None,
        num_workers: int = 0,
        train_transform: Transform | None = None,
        eval_transform: Transform | None = None,
    ) -> None:
        super().__init__()
        for name, found, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
            if not isinstance(found, int) or isinstance(found, bool) or found < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, found {found!r}")
        self.dataset: Parts = dataset if root is None else functools.partial(dataset, root=root)  # type: ignore[call-arg]
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.train_transform = train_transform
        self.eval_transform = eval_transform
        self._parts: dict[str, Part] = {}

    def part(self, split: str) -> Part:
        """One part of the data as it is evaluated: without the random changes of training. Opened once."""
        if split not in self._parts:
            self._parts[split] = self.dataset(split=split, transform=self.eval_transform)
        return self._parts[split]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        return tuple(self.part("val").class_names)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train", self.dataset(split="train", transform=self.train_transform), shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self.evaluation_loader("test")

    def evaluation_loader(self, split: str) -> DataLoader[Any]:
        """One part in order, or this process's share of it: images number rank, rank + processes, ...

        Raises
        ------
        ValueError
            If the part is empty, or holds fewer images than there are processes.
        """
        part = self.part(split)
        processes, rank = (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        if 0 < len(part) < processes:
            raise ValueError(f"the {split} part holds {len(part)} images, too few to share among {processes} processes")
        sampler = None if processes == 1 else UnrepeatedDistributedSampler(part, processes, rank, shuffle=False)
        return self._loader(split, part, sampler=sampler)

    def _loader(self, split: str, part: Part, **order: Any) -> DataLoader[Any]:
        if not len(part):
            raise ValueError(f"the {split} part of the data is empty")
        return DataLoader(
            cast(Dataset[Any], part),
            self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=_checked,
            **order,
        )


def _checked(items: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    images, labels = default_collate(items)
    check_values(images)
    return images, labels
