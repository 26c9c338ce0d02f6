"""ImageNet-1k (ILSVRC 2012, arXiv 1409.0575): photos of 1,000 classes, in folders named by WordNet ids."""

from __future__ import annotations

import functools
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from torchvision.datasets import imagenet as archives
from torchvision.models import ResNet50_Weights

from bcos_vit.data.folder import Folder
from bcos_vit.data.listing import Listing
from bcos_vit.paths import user_path

PARTS = {"train": "train", "val": "val", "test": "val"}
_ARCHIVES = {"train": archives.parse_train_archive, "val": archives.parse_val_archive}


@functools.cache
def imagenet_classes() -> dict[str, str]:
    """WordNet id -> name of ImageNet's 1,000 classes, in the order of their numbers."""
    from timm.data import ImageNetInfo  # here, since it takes a second

    names = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    return dict(zip(ImageNetInfo("imagenet-1k").label_names(), names, strict=True))


class ImageNet(Folder):
    """One part of ImageNet, laid out as ``root/{train,val}/WORDNET_ID/image``; items are (photo, class number).

    ImageNet's own test part has no public labels: ``"test"`` is the validation part. Class numbers and names are those
    of ImageNet, whatever else lies beside the 1,000 folders; a subset of the classes is a job for
    :class:`~bcos_vit.data.Folder`.

    Parameters
    ----------
    split
        ``"train"``, ``"val"`` or ``"test"``.
    transform
        PIL image -> (3, H, W) in [0, 1].
    root
        The folder that holds the parts, or the archives of image-net.org.
    parts
        The folder of each part, below ``root``.
    unpack
        Where a part is missing, unpack its archives first, through torchvision: ``ILSVRC2012_img_train.tar``, or
        ``ILSVRC2012_img_val.tar`` and ``ILSVRC2012_devkit_t12.tar.gz``. Safe with several processes.

    Raises
    ------
    OSError
        If the part is missing, or cannot be unpacked.
    ValueError
        For another split, or if a class folder is missing.
    """

    licence = "ImageNet: each photo is its owner's; for non-commercial research and education, https://image-net.org"

    def __init__(
        self,
        split: str,
        transform: Callable[[Any], Any] | None = None,
        *,
        root: str,
        parts: Mapping[str, str] | None = None,
        unpack: bool = False,
    ) -> None:
        folders = PARTS | dict(parts or {})
        if split in PARTS and root:
            _require(user_path(root) / user_path(folders[split]), unpack)
        super().__init__(split, transform, root=root, parts=folders)
        self.class_names = tuple(imagenet_classes().values())

    def _class_folders(self, listing: Listing) -> dict[str, Path]:
        """The folders of the 1,000 WordNet ids, each of which must be there."""
        wnids = imagenet_classes()
        found = listing.class_folders(only=wnids)
        if missing := [wnid for wnid in wnids if wnid not in found]:
            raise ValueError(
                f"{self.part} lacks {len(missing):,} of ImageNet's {len(wnids):,} class folders, such as "
                f"{missing[0]}: unpack them all, or take a subset of the classes as data=folder"
            )
        return found

    def _all_classes(self, own: Mapping[str, Path]) -> list[str]:
        return list(imagenet_classes())


def _require(part: Path, unpack: bool) -> None:
    if unpack and part.parent.is_dir() and not part.is_dir() and part.name in _ARCHIVES:
        _unpack(part)
    if not part.is_dir():
        raise FileNotFoundError(
            f"there is no folder {part}: ImageNet is expected as {part}/n01440764/*.JPEG and so on, 1,000 folders, "
            f"or as the archives of image-net.org in {part.parent}, which data.dataset.unpack=true unpacks"
        )


def _unpack(part: Path) -> None:
    root, half = part.parent, part.with_name(f".{part.name}.unpacking")
    try:
        with FileLock(root / ".imagenet.lock"):
            if part.is_dir():  # another process has done it meanwhile
                return
            shutil.rmtree(half, ignore_errors=True)  # of a process that was killed
            if part.name == "val":
                archives.parse_devkit_archive(root)  # which class every photo is of
            _ARCHIVES[part.name](root, folder=half.name)
            half.rename(part)
    except (RuntimeError, OSError, EOFError, tarfile.TarError) as error:
        shutil.rmtree(half, ignore_errors=True)
        reason = " ".join(str(error).split())
        raise OSError(f"the archives of ImageNet cannot be unpacked in {root}: {reason}") from error
