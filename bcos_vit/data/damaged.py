"""Images that cannot be read: left out of their batches, and remembered."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from itertools import chain
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from bcos_vit.data.names import printable
from bcos_vit.photos import PhotoError


class Readable(Dataset[Any]):
    """A part of a data set whose batches leave out the images that cannot be read.

    Which these are is known only once they were asked for, in whatever process that was.

    Parameters
    ----------
    part
        Raises :class:`~bcos_vit.photos.PhotoError` for an image that cannot be read.
    damaged
        (N,) bool, in memory that the loading processes share: gets True for what could not be read when it was last
        asked for.
    never_empty
        Where no image of a batch can be read, give the next one that can: processes that learn together wait for
        each other's batches.
    """

    def __init__(self, part: Any, damaged: Tensor, *, never_empty: bool = False) -> None:
        self.part = part
        self.class_names: tuple[str, ...] = part.class_names
        self.licence: str = part.licence
        self.damaged = damaged
        self.never_empty = never_empty

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> Any:
        try:
            item = self.part[index]
        except PhotoError:
            self.damaged[index] = True
            raise
        self.damaged[index] = False
        return item

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """The items that can be read: what a ``DataLoader`` asks for."""
        items = list(self.readable(indices))
        return items if items or not self.never_empty else [self.next(indices[-1])]

    def readable(self, indices: Iterable[int]) -> Iterable[Any]:
        """The items that can be read, one after the other."""
        for index in indices:
            with contextlib.suppress(PhotoError):
                yield self[index]

    def next(self, start: int) -> Any:
        """The first item from ``start`` on that can be read; ``ValueError`` if there is none at all."""
        for item in self.readable(chain(range(start, len(self)), range(start))):
            return item
        raise ValueError("no image of this part of the data can be read")

    def reason(self, index: int) -> str:
        """Why an image cannot be read, in a sentence that names its file."""
        try:
            self[index]
        except PhotoError as error:
            return printable(str(error))
        return f"image {index} could not be read, but now it can"
