"""Photos in folders, one folder a class: ``ROOT/train/cat/1.jpg``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torchvision.datasets import ImageFolder

from bcos_vit.paths import user_path
from bcos_vit.photos import read_photo, suffixes

PARTS = {"train": "train", "val": "val", "test": "test"}


class Folder(ImageFolder):
    """One part of a data set laid out as ``root/part/class/image``; items are (photo, class number).

    Classes are the folders of the training part, sorted, in every part; where there is no training part, as in a set
    that is only evaluated on, those of the part itself. Photos are the files with a suffix of
    :func:`~bcos_vit.photos.suffixes`, read by :func:`~bcos_vit.photos.read_photo`.

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

    Raises
    ------
    OSError
        If a folder is missing or cannot be read, in a sentence that names it.
    ValueError
        For another split or part, a folder without images, or a class that the training part does not have.
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
        self.part = Path(root) / folders[split]
        self.train_part = Path(root) / folders["train"]
        if not Path(root).is_dir():
            raise FileNotFoundError(f"there is no folder {root}")
        if not self.part.is_dir():
            raise FileNotFoundError(
                f"there is no folder {self.part} for the {split} part: make it, or name another folder of {root} "
                f"with data.dataset.parts.{split}=..."
            )
        super().__init__(str(self.part), transform, loader=read_photo, is_valid_file=_is_photo, allow_empty=True)
        if not self.samples:
            raise ValueError(f"there are no images in the class folders of {self.part}")
        if split == "train" and (empty := sorted(set(self.class_to_idx.values()) - set(self.targets))):
            raise ValueError(f"there are no images in {self.part / self.classes[empty[0]]}: fill or remove it")
        self.class_names = tuple(self.classes)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """The classes of the training part, which must hold those of ``directory``."""
        own = _subfolders(Path(directory))
        classes = _subfolders(self.train_part) if self.train_part.is_dir() else own
        if not own:
            raise ValueError(f"{directory} holds no class folders: images are expected as {directory}/CLASS/IMAGE")
        if unknown := sorted(set(own) - set(classes)):
            raise ValueError(f"{directory} holds the class {unknown[0]!r}, which {self.train_part} does not have")
        for name in own:
            _entries(Path(directory) / name)  # what cannot be listed would count as empty
        return classes, {name: number for number, name in enumerate(classes)}


def _is_photo(path: str) -> bool:
    return Path(path).suffix.lower() in suffixes()


def _subfolders(folder: Path) -> list[str]:
    return sorted(p.name for p in _entries(folder) if p.is_dir() and not p.name.startswith("."))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise type(error)(f"cannot read the folder {folder}: {error.strerror}") from error
