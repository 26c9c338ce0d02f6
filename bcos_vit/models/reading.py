"""Reading files of weights that anyone may have made.

Nothing in them runs, nothing in them is believed before it has been looked at, and tensors stay in the file (mapped)
until they are known to be wanted. Two formats are read, told apart by their first bytes: safetensors, and the archives
of ``torch.save`` through torch's restricted reader (``weights_only=True``), after a look at what they would have it do.
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bcos_vit.models.other_files import what_it_is, what_zip_it_is
from bcos_vit.models.pickles import check_pickle

LARGEST_INDEX = 2**19
"""Bytes of what describes the tensors; that of the largest published model, with its optimiser, takes a fifth."""


def is_archive(path: Path) -> bool:
    """Whether the file at ``path`` begins as an archive of ``torch.save``.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or it is a folder, a device, ...
    OSError
        If it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no weights file {path}")
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def read_archive(path: Path) -> Any:
    """What ``torch.save`` wrote to ``path``: tensors in the file, and plain values.

    Raises
    ------
    ValueError
        If it is damaged, or holds anything else.
    """
    try:
        _inspect(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (FileNotFoundError, PermissionError):
        raise
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read safely: {reason(error)}") from error
    except Exception as error:  # torch's words recommend to read it all the same
        raise ValueError(f"{path} cannot be read safely: torch refuses it ({type(error).__name__})") from error


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by their names, in the file, and the metadata.

    Raises
    ------
    ValueError
        If it is no whole safetensors file.
    """
    with path.open("rb") as file:
        size = int.from_bytes(start := file.read(8), "little")
        if size > LARGEST_INDEX:
            raise ValueError(f"{path} is neither a safetensors file nor an archive of torch.save: {what_it_is(path)}")
        if len(start) < 8:
            raise ValueError(f"{path} is not a safetensors file: {what_it_is(path)}")
        if len(header := file.read(size)) < size:
            raise ValueError(f"{path} is not a safetensors file: it ends within its header, copy or fetch it again")
    try:
        json.loads(header, object_pairs_hook=unique)  # the reader below would take the last of several
        with safe_open(path, framework="pt") as opened:
            names = list(opened.keys())
            return {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}
    except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a safetensors file: {reason(error)}") from error


def reason(error: object) -> str:
    """What went wrong, in one line that can be shown: files that anyone may have made can say anything in an error."""
    return shown(str(error).partition("\n")[0]) or type(error).__name__


def shown(text: str, most: int = 200) -> str:
    """One line of printable characters, cut to ``most``."""
    line = "".join(c if c.isprintable() else " " for c in text[: 2 * most])
    return line if len(line) <= most else f"{line[:most]}..."


def _inspect(path: Path) -> None:
    """Raise ``ValueError`` unless the file is laid out as ``torch.save`` does it, and asks for no more than it holds.

    The readers of zip archives that Python and torch have must see the same entries, so oddities are refused.
    """
    with path.open("rb") as file:
        _check_end(file)
        with zipfile.ZipFile(file) as archive:
            entries = {entry.orig_filename: entry for entry in archive.infolist()}
            if (other := what_zip_it_is(entries)) is not None:
                raise ValueError(other)
            if len({name.casefold() for name in entries}) < len(archive.infolist()):
                raise ValueError("it has an entry twice")
            (folder, *others) = {name.partition("/")[0] for name in entries}
            if others or any(
                ".." in name.split("/") or not (name.isascii() and name.isprintable()) for name in entries
            ):
                raise ValueError("its entries are not named as torch.save does it")
            if any(entry.compress_type != zipfile.ZIP_STORED or entry.comment for entry in entries.values()):
                raise ValueError("its entries are compressed or have comments, as torch.save never does it")
            sizes = {name.removeprefix(f"{folder}/"): entry.file_size for name, entry in entries.items()}
            storages = {name.removeprefix("data/"): sizes.pop(name) for name in list(sizes) if name.startswith("data/")}
            if sum(storages.values()) > path.stat().st_size or sum(sizes.values()) > LARGEST_INDEX:
                raise ValueError("its entries claim to be larger than the file, or than weights need")
            if "data.pkl" not in sizes:
                raise ValueError("it holds no data.pkl")
            if (spoilt := archive.testzip()) is not None:
                raise ValueError(f"its entry {spoilt!r} is damaged")
            content = archive.read(f"{folder}/data.pkl")
    check_pickle(content, storages)


def _check_end(file: BinaryIO) -> None:
    """Raise ``ValueError`` unless the archive ends with one directory of entries of modest size, and nothing else.

    zipfile would read a directory of any size, and, like torch's reader, can be shown another one than its own.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 98))
    tail = file.read()
    end, locator, record = tail[-22:], tail[-42:-22], tail[-98:-42]
    length, start = struct.unpack("<II", end[12:20]) if end[:4] == b"PK\x05\x06" else (0, 0)
    closing = 22
    if locator[:4] == b"PK\x06\x07":
        closing = 98
        if record[:4] != b"PK\x06\x06" or struct.unpack("<Q", locator[8:16])[0] != size - closing:
            raise ValueError("its end is damaged")
        length, start = struct.unpack("<QQ", record[40:56])
    if not length or start + length + closing != size:
        raise ValueError("its end is missing or damaged")
    if length > LARGEST_INDEX:
        raise ValueError(f"a directory of {length:,} bytes is more than weights need")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For ``json.loads``: an object whose names are all different, or a ``ValueError``."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header names something twice")
    return found
