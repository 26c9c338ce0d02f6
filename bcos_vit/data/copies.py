"""Photos that lie in one part of a data set and again in another, byte for byte."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping
from itertools import combinations
from typing import Any

from bcos_vit.data.damaged import Readable
from bcos_vit.data.names import note_once, printable

MOST = 100_000
"""Files of all parts together that are compared; of more, as of ImageNet, it would take too long."""


def note_copies(parts: Mapping[str, Any]) -> None:
    """Note how many photos of a part lie in another one too; parts that are no folders of photos are left alone.

    Only files of equal size are read. A part that takes the place of another, as where the validation folder is tested
    on, was named as such by the user, and is left alone as well.
    """
    files = {split: _files(part) for split, part in parts.items()}
    if sum(map(len, files.values())) > MOST:
        return
    sizes = {split: _by_size(paths) for split, paths in files.items()}
    for one, other in combinations(parts, 2):
        if set(files[one]) & set(files[other]):
            continue
        shared = sizes[one].keys() & sizes[other].keys()
        known = {_digest(path) for size in shared for path in sizes[one][size]} - {None}
        copies = [path for size in shared for path in sizes[other][size] if _digest(path) in known]
        if copies:
            note_once(
                f"{len(copies):,} of the {len(files[other]):,} photos of the {other} part are in the {one} part too, "
                f"such as {printable(copies[0])}: results on them say little about other photos"
            )


def _files(part: Any) -> list[str]:
    samples = getattr(part.part if isinstance(part, Readable) else part, "samples", ())
    return [path for path, _ in samples]


def _by_size(paths: list[str]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for path in paths:
        with contextlib.suppress(OSError):  # what cannot be read is reported where it is asked for
            found[os.stat(path).st_size].append(path)
    return found


def _digest(path: str) -> bytes | None:
    """SHA-256 of a file; None for one that cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None
