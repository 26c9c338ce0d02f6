"""Photos in folders, one folder a class: ``ROOT/train/cat/1.jpg``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from bcos_vit.data.listing import Listing
from bcos_vit.data.names import printable, shortened
from bcos_vit.paths import user_path
from bcos_vit.photos import read_photo

PARTS = {"train": "train", "val": "val", "test": "test"}


class Folder(Dataset[tuple[Any, int]]):
    """One part of a data set laid out as ``root/part/class/image``; items are (photo, class number).

    Classes are the folders of the training part, sorted, in every part; where there is no training part, as in a set
    that is only evaluated on, those of the part itself. Photos are the files with a suffix of
    :func:`~bcos_vit.photos.suffixes` in a class folder and the folders below it, read by
    :func:`~bcos_vit.photos.read_photo`. Hidden names, leftovers of systems and folders that count elsewhere are left
    out (:class:`~bcos_vit.data.listing.Listing`); a note on stderr counts them.

    Parameters
    ----------
    split
        ``"train"``, ``"val"`` or ``"test"``.
    transform
        PIL image -> (3, H, W) in [0, 1].
    root
        The folder that holds the parts.
    parts
        The folder of each part, below ``root``. ImageNet has no test part of its own: ``{"test": "val"}``; "." is
        ``root`` itself.

    Attributes
    ----------
    class_names
        The names of the class folders, as :func:`~bcos_vit.data.names.printable` text.
    samples
        (file, class number) of every photo, sorted by class.
    targets
        The class numbers alone.

    Raises
    ------
    OSError
        If a folder is missing or cannot be read, in a sentence that names it.
    ValueError
        For another split or part, a folder without images, a class that the training part does not have, or two class
        folders that are one or bear one name.
    """

    licence = "that of the folder's owner"

    def __init__(
        self,
        split: str,
        transform: Callable[[Any], Any] | None = None,
        *,
        root: str,
        parts: Mapping[str, str] | None = None,
    ) -> None:
        folders = PARTS | dict(parts or {})
        for name in (split, *folders):
            if name not in PARTS:
                raise ValueError(f"split must be train, val or test, found {name!r}")
        if not root:
            raise ValueError("no folder is given: say where the images lie, as data.root=FOLDER")
        root = str(user_path(root))
        if not Path(root).is_dir():
            raise FileNotFoundError(f"there is no folder {root}")
        self._parts = {name: Path(root) / user_path(folder) for name, folder in folders.items()}
        self.part = self._parts[split]
        if not self.part.is_dir():
            raise FileNotFoundError(
                f"there is no folder {self.part} for the {split} part: make it, or name another folder of {root} "
                f"with data.dataset.parts.{split}=..."
            )
        self.transform = transform
        listing = self._listing(split)
        own = self._class_folders(listing)
        self.classes = self._all_classes(own)
        photos = listing.photos(own)
        listing.say_left_out()
        if not any(photos.values()):
            raise ValueError(f"there are no images in the class folders of {self.part}")
        if split == "train" and (empty := next((name for name in own if not photos[name]), None)) is not None:
            raise ValueError(f"there are no images in {printable(str(own[empty]))}: fill or remove it")
        self.class_names = tuple(self.classes)
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.samples = [(photo, numbers[name]) for name in self.classes for photo in photos.get(name, ())]
        self.targets = [number for _, number in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.samples[index]
        photo = read_photo(path)
        return photo if self.transform is None else self.transform(photo), label

    def _listing(self, split: str) -> Listing:
        return Listing(self._parts[split], (folder for name, folder in self._parts.items() if name != split))

    def _class_folders(self, listing: Listing) -> dict[str, Path]:
        """The class folders of this part by name."""
        found = listing.class_folders()
        if not found:
            raise ValueError(f"{self.part} holds no class folders: images are expected as {self.part}/CLASS/IMAGE")
        return found

    def _all_classes(self, own: Mapping[str, Path]) -> list[str]:
        """The classes of the training part, which must hold those of this one."""
        train = self._parts["train"]
        if train == self.part or not train.is_dir():
            return list(own)
        classes = list(self._listing("train").class_folders())
        if unknown := [name for name in own if name not in classes]:
            has = f": its classes are {shortened(classes)}" if classes else ""
            raise ValueError(f"{self.part} holds the class {unknown[0]!r}, which {train} does not have{has}")
        return classes
