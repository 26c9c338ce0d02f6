"""Images that cannot be read: left out of their batches, and remembered."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from bcos_vit.photos import PhotoError


class Readable(Dataset[Any]):
    """A part of a data set whose batches leave out the images that cannot be read.

    Which these are is known only once they were asked for, in whatever process that was.

    Parameters
    ----------
    part
        Raises :class:`~bcos_vit.photos.PhotoError` for an image that cannot be read.
    damaged
        (N,) bool, in memory that the loading processes share: gets True for what cannot be read.
    """

    def __init__(self, part: Any, damaged: Tensor) -> None:
        self.part = part
        self.class_names: tuple[str, ...] = part.class_names
        self.licence: str = part.licence
        self.damaged = damaged

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.part[index]
        except PhotoError:
            self.damaged[index] = True
            raise

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """The items that can be read: what a ``DataLoader`` asks for."""
        return [item for index in indices if (item := self.get(index)) is not None]

    def get(self, index: int) -> Any | None:
        """An item, or None if its image cannot be read."""
        try:
            return self[index]
        except PhotoError:
            return None

    def reason(self, index: int) -> str:
        """Why an image cannot be read, in a sentence that names its file."""
        try:
            self[index]
        except PhotoError as error:
            return str(error)
        return f"image {index} could not be read, but now it can"
