"""The one data module: any data set with a training, a validation and a test part."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from lightning import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from bcos_vit.checks import check_values
from bcos_vit.data.copies import note_copies
from bcos_vit.data.damaged import Readable
from bcos_vit.data.mapping import read_mapping
from bcos_vit.data.names import shortened
from bcos_vit.data.pairing import Pairing, pair_classes
from bcos_vit.data.parts import DrawnAnew, Part, Parts, Transform, check_part, evenly, labels_of

LONGEST_PLACE = 75
"""107 bytes of a socket's name, but those of ``/pymp-xxxxxxxx/listener-xxxxxxxx``; beyond, loading hangs in silence."""
Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


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
        Images that a device takes at once; in training, unless ``train_batch_size`` is set to less.
    num_workers
        Processes that load; 0 loads in the training process.
    corrupt
        What becomes of an image that cannot be read: ``"raise"`` an error that names it, or ``"skip"`` it, and know
        it from then on (:meth:`damaged`, :meth:`skipped`).
    test
        ``"test"``, or ``"none"`` for data without a test part, which then is never asked for.
    classes
        Which class of a model each of the data's classes is, where they bear other names: a mapping from the data's
        names to the model's names or numbers, or the path of a JSON or YAML file that holds one. The others are paired
        by name (:func:`~bcos_vit.data.pairing.pair_classes`).
    mix
        Called with ``num_classes``; what it gives mixes a training batch, images (B, 3, H, W) and class numbers (B,)
        -> images and shares of the classes (B, K): ``torchvision.transforms.v2.MixUp``. Draws once a batch.
    train_images
        Learn from so many images of the training part only, evenly spread; None, or more than there are: from all.
    train_transform, eval_transform
        torchvision v2 transforms of single images, for training and for evaluating any part.

    Raises
    ------
    OSError
        If the file of ``classes`` cannot be read.
    ValueError
        For a batch size or number of images below 1, a negative number of workers, another word for ``corrupt`` or
        ``test``, or ``classes`` that are no mapping; when it comes to loading, if the name of the folder for temporary
        files is too long for several processes.
    """

    def __init__(
        self,
        dataset: Parts,
        *,
        batch_size: int,
        root: str | None = None,
        num_workers: int = 0,
        corrupt: str = "raise",
        test: str | None = "test",
        classes: Mapping[str, str | int] | str | None = None,
        mix: Callable[..., Mix] | None = None,
        train_images: int | None = None,
        train_transform: Transform | None = None,
        eval_transform: Transform | None = None,
    ) -> None:
        super().__init__()
        counts = [("batch_size", batch_size, 1), ("num_workers", num_workers, 0)]
        for name, found, least in counts if train_images is None else [*counts, ("train_images", train_images, 1)]:
            if not isinstance(found, int) or isinstance(found, bool) or found < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, found {found!r}")
        if corrupt not in ("raise", "skip"):
            raise ValueError(f"corrupt must be raise or skip, found {corrupt!r}")
        if test not in ("test", "none", None):
            raise ValueError(f"test must be test, or none for data without a test part, found {test!r}")
        self.dataset: Parts = dataset if root is None else functools.partial(dataset, root=root)  # type: ignore[call-arg]
        self.batch_size = self.train_batch_size = batch_size
        self.num_workers = num_workers
        self.corrupt = corrupt
        self.has_test = test == "test"
        """Whether there is a part to be evaluated on once, at the end."""
        self.classes = read_mapping(classes)
        self.mix = mix
        self.train_images = train_images
        self.train_transform = train_transform
        self.eval_transform = eval_transform
        self._parts: dict[str, Part] = {}
        self._readable: dict[str, Readable] = {}

    def part(self, split: str) -> Part:
        """One part of the data as it is evaluated: without the random changes of training. Opened once.

        Raises ``ValueError`` for the test part of data that have none.
        """
        if split == "test" and not self.has_test:
            raise ValueError("the data have no test part, since data.test is none: give split=val or data.test=test")
        if split not in self._parts:
            self._parts[split] = self._open(split, self.eval_transform)
        return self._parts[split]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        return tuple(self.part("val").class_names)

    def pair(self, split: str, names: Sequence[str] | None, count: int) -> Pairing:
        """Which of a model's ``count`` classes, of these ``names``, each class of a part is.

        Raises :class:`~bcos_vit.data.pairing.PairingError` for a class with images that the model does not know.
        """
        part = self.part(split)
        labels = labels_of(part)
        needed = None if labels is None else labels.unique().tolist()
        return pair_classes(part.class_names, names, count, said=self.classes, needed=needed)

    def check_parts(self, splits: Sequence[str]) -> None:
        """See that each of these parts can be opened, and one image of every class in it be read, before a long run.

        Photos that lie in one part and again in another are noted: what is measured on them says little. Random numbers
        drawn afterwards are what they would have been.

        Raises
        ------
        OSError
            If a part is missing.
        ValueError
            If a part is empty, its classes are others than those of the first, or no image of a class can be read.
        """
        with isolate_rng():
            for split in splits:
                part, names = self.part(split), tuple(self.part(splits[0]).class_names)
                if tuple(part.class_names) != names:
                    raise ValueError(
                        f"the classes of the {split} part are {shortened(part.class_names)}, but those of the "
                        f"{splits[0]} part {shortened(names)}: they must be the same, in the same order"
                    )
                check_part(part, split)
            note_copies({split: self.part(split) for split in splits})

    @property
    def images_to_learn_from(self) -> int:
        """How many images an epoch of training has."""
        images = len(self.part("train"))
        return images if self.train_images is None else min(self.train_images, images)

    def train_dataloader(self) -> DataLoader[Any]:
        collate = _checked
        if self.mix is not None:
            collate = functools.partial(_checked, mix=self.mix(num_classes=len(self.class_names)))
        part: Any = self._open("train", self.train_transform, never_empty=True)
        if isinstance(part, DrawnAnew):
            trainer = self.trainer
            part = part.of_epoch(0 if trainer is None else trainer.current_epoch)
            if trainer is not None:
                # So that Lightning asks again in the next epoch; it knows no data set that does.
                trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]
        if self.train_images is not None:
            part = Subset(part, evenly(min(self.train_images, len(part)), len(part)))
        return self._loader("train", part, self.train_batch_size, collate_fn=collate, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self.evaluation_loader("test")

    def evaluation_loader(self, split: str) -> DataLoader[Any]:
        """One part in order, or this process's share of it: :meth:`indices`.

        Raises
        ------
        ValueError
            If the part is empty, or holds fewer images than there are processes.
        """
        part = self.part(split)
        processes, rank = self._share
        if 0 < len(part) < processes:
            raise ValueError(f"the {split} part holds {len(part)} images, too few to share among {processes} processes")
        sampler = None if processes == 1 else UnrepeatedDistributedSampler(part, processes, rank, shuffle=False)
        return self._loader(split, part, self.batch_size, collate_fn=_checked, sampler=sampler)

    def indices(self, split: str) -> Tensor:
        """Which images :meth:`evaluation_loader` gives this process, in order, but those known to be damaged.

        Numbers rank, rank + processes, ...; those of a batch that was given are right from then on.
        """
        processes, rank = self._share
        readable = ~self.damaged(split)
        return torch.arange(len(readable))[rank::processes][readable[rank::processes]]

    def examples(self, split: str, count: int) -> Tensor:
        """So many images of one part, spread evenly, (count, 3, H, W); in place of a skipped one comes the next."""
        part = self.part(split)
        indices = evenly(count, len(part))
        return torch.stack([part.next(i)[0] if isinstance(part, Readable) else part[i][0] for i in indices])

    def damaged(self, split: str) -> Tensor:
        """Which images of a part could not be read so far by this process and those that load for it, (N,) bool."""
        if split in self._readable:
            return self._readable[split].damaged
        return torch.zeros(len(self.part(split)), dtype=torch.bool)

    def skipped(self, split: str) -> list[int]:
        """Which images of a part were left out so far, on any process; to be called by all processes alike."""
        found = self.damaged(split)
        if self.trainer is not None:
            strategy = self.trainer.strategy
            found = strategy.reduce(found.to(strategy.root_device, torch.float32), reduce_op="sum").cpu() > 0
        return found.nonzero().flatten().tolist()

    def reasons(self, split: str, indices: Sequence[int]) -> list[str]:
        """Why images were left out: a sentence for each, which names its file."""
        return [self._readable[split].reason(index) for index in indices]

    @property
    def _share(self) -> tuple[int, int]:
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _open(self, split: str, transform: Transform | None, *, never_empty: bool = False) -> Part:
        part = self.dataset(split=split, transform=transform)
        if self.corrupt == "raise" or isinstance(part, DrawnAnew):  # what is drawn can be read
            return part
        known = self._readable.get(split)  # the same files, with other transforms
        damaged = torch.zeros(len(part), dtype=torch.bool).share_memory_() if known is None else known.damaged
        self._readable[split] = Readable(part, damaged, never_empty=never_empty)
        return self._readable[split]

    def _loader(self, split: str, part: Part, batch_size: int, **how: Any) -> DataLoader[Any]:
        if not len(part):
            raise ValueError(f"the {split} part of the data is empty")
        if self.num_workers and len(place := os.fsencode(tempfile.gettempdir())) > LONGEST_PLACE:
            raise ValueError(
                f"the folder for temporary files has a name of {len(place)} bytes, and processes that load need "
                f"sockets there: give one of at most {LONGEST_PLACE} as the variable TMPDIR, or data.num_workers=0"
            )
        return DataLoader(
            cast(Dataset[Any], part),
            batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **how,
        )


def _checked(items: list[tuple[Tensor, int]], mix: Mix | None = None) -> tuple[Tensor, Tensor] | None:
    if not items:  # none of an evaluated batch can be read
        return None
    images, labels = default_collate(items)
    check_values(images)
    return (images, labels) if mix is None else mix(images, labels)
