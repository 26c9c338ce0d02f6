"""The parts of a data set: what is asked of one, and whether it can be learnt from or evaluated on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from bcos_vit.data.damaged import Readable
from bcos_vit.data.names import note, shortened

Transform = Callable[[Any], Tensor]


class Part(Protocol):
    """One part of a data set; its items are ((3, H, W) in [0, 1], class number).

    The class numbers of all items may be given as ``labels`` or ``targets``, (N,): then no image need be read to know
    them, and an image of every class can be looked at before a long run.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def licence(self) -> str:
        """Whose the images are and what they may be used for, kept with what was learnt from them."""
        ...

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...


@runtime_checkable
class DrawnAnew(Protocol):
    """A part that has other images to learn from in every epoch."""

    def of_epoch(self, epoch: int) -> Any:
        """The data set of an epoch, counted from 0; its items are ((3, H, W) in [0, 1], class number or (K,))."""
        ...


class Parts(Protocol):
    """Makes the parts of a data set."""

    def __call__(self, split: str, transform: Transform | None) -> Part: ...


def labels_of(part: Any) -> Tensor | None:
    """(N,) the class numbers of a part, without reading its images; None where it does not say them.

    Raises ``ValueError`` for a number that is none of its classes.
    """
    if isinstance(part, Readable):
        return labels_of(part.part)
    names = part.class_names
    for name in ("labels", "targets"):
        try:
            labels = torch.as_tensor(getattr(part, name, None))
        except (TypeError, ValueError, RuntimeError):  # none, or no numbers
            continue
        if labels.shape == (len(part),) and not labels.is_floating_point():
            if len(part) and not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
                raise ValueError(
                    f"the data's labels are {int(labels.min())} to {int(labels.max())}, but its classes are "
                    f"{len(names)}, numbered from 0"
                )
            return labels.long()
    return None


def check_part(part: Part, split: str) -> None:
    """Read one image of every class of a part, where it says its labels, else as many that are evenly spread.

    Of images that are skipped where they cannot be read, the first that can is enough. A class without images is
    noted.

    Raises
    ------
    ValueError
        If the part is empty, has a label that is no class, or an image cannot be read.
    """
    if not len(part):
        raise ValueError(f"the {split} part of the data is empty")
    names, labels = part.class_names, labels_of(part)
    if labels is None:
        for index in evenly(min(len(names), len(part)), len(part)):
            _read_one(part, split, [index, *range(len(part))])
        return
    counts = labels.bincount(minlength=len(names)).tolist()
    if absent := [name for name, count in zip(names, counts, strict=True) if not count]:
        note(f"the {split} part has no image of {len(absent):,} of {len(names):,} classes: {shortened(absent)}")
    for name, indices in zip(names, labels.argsort(stable=True).split(counts), strict=True):
        if len(indices):
            _read_one(part, f"{split} part's class {name!r}", indices.tolist())


def evenly(count: int, length: int) -> list[int]:
    """So many of the numbers from 0 to ``length``, evenly spread."""
    return [number * length // count for number in range(count)]


def _read_one(part: Any, what: str, indices: Iterable[int]) -> None:
    first, *_ = indices
    if not isinstance(part, Readable):
        part[first]
    elif next(iter(part.readable(indices)), None) is None:
        raise ValueError(f"no image of the {what} can be read, such as: {part.reason(first)}")
