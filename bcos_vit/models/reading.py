"""Reading files of weights that anyone may have made.

Nothing in them runs, nothing in them is believed before it has been looked at, and tensors stay in the file (mapped)
until they are known to be wanted. Two formats are read, told apart by their first bytes: safetensors, and the archives
of ``torch.save`` through torch's restricted reader (``weights_only=True``).
"""

from __future__ import annotations

import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

LARGEST_INDEX = 2**20
"""Bytes of what describes the tensors; that of the largest published model, with its optimiser, takes a tenth."""
_STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_GLOBALS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
_GLOBALS |= {f"torch {kind}Storage" for kind in _STORAGES}
# All that weights need. torch allows more (sets, byte arrays of any size, ...), which can fill the memory.
_REFUSED = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "EMPTY_SET", "FROZENSET"}
_END, _END_64, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"  # records that close a zip archive


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
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise ValueError(f"{path} cannot be read safely: {_reason(error)}") from error


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by their names, in the file, and the metadata.

    Raises
    ------
    ValueError
        If it is no whole safetensors file.
    """
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > LARGEST_INDEX:
        raise ValueError(
            f"{path} is neither a safetensors file nor an archive of torch.save: "
            f"a header of {header:,} bytes is more than weights need"
        )
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a safetensors file: {_reason(error)}") from error


def _inspect(path: Path) -> None:
    """Raise ``ValueError`` for an archive that would take more memory than its own size, or name what it should not."""
    with path.open("rb") as file:
        if (size := _directory_size(file)) > LARGEST_INDEX:
            raise ValueError(f"its directory of {size:,} bytes is more than weights need")
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            names = [entry.filename.casefold() for entry in entries]
            folders = {name.partition("/")[0] for name in names}
            if len(set(names)) < len(names) or len(folders) > 1 or any(".." in name.split("/") for name in names):
                raise ValueError("its entries are not those of torch.save")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ValueError("its entries are compressed, which torch.save never does")
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise ValueError("its entries claim to be larger than the file")
            index = [entry for entry in entries if entry.filename.casefold().endswith("/data.pkl")]
            if len(index) != 1 or index[0].file_size > LARGEST_INDEX:
                raise ValueError("its data.pkl is missing, or larger than weights need")
            content = archive.read(index[0])
    for operation, argument, _ in pickletools.genops(content):  # names what the pickle does, without doing it
        if operation.name in _REFUSED or (operation.name == "GLOBAL" and argument not in _GLOBALS):
            raise ValueError(f"it asks for {str(argument or operation.name)[:80]!r}, which weights do not need")


def _directory_size(file: BinaryIO) -> int:
    """Bytes of the list of entries, which zipfile would read whole; archives of torch.save end without a comment."""
    file.seek(-22, 2)
    end = file.read(22)
    if end[:4] != _END:
        raise ValueError("its end is missing")
    (size,) = struct.unpack_from("<I", end, 12)
    if size < 2**32 - 1:
        return size
    file.seek(-42, 2)
    locator = file.read(20)
    if locator[:4] != _LOCATOR:
        raise ValueError("its end is damaged")
    file.seek(struct.unpack_from("<Q", locator, 8)[0])
    record = file.read(56)
    if record[:4] != _END_64 or len(record) < 56:
        raise ValueError("its end is damaged")
    return struct.unpack_from("<Q", record, 40)[0]


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
