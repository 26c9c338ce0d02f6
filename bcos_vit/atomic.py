"""Files that are whole or not there, even if the process is killed while it writes."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

REMEDY = "remove it, or give another name"
"""For what is in the way."""


def write_whole(path: str | os.PathLike[str], content: bytes | str, *, replace: bool = True) -> None:
    """Make ``path`` a file of ``content`` (text in UTF-8); what was there before stays until then.

    On Linux the content goes to a file without a name (``O_TMPFILE``), which vanishes with a killed process.
    Elsewhere it goes to a hidden file in the same folder, which an exception removes.

    Parameters
    ----------
    replace
        False: leave alone what is there.

    Raises
    ------
    FileExistsError
        If something is there that is not to be replaced.
    OSError
        In a sentence, if it cannot be written: nothing is left behind.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder, give a file name in it")
    hidden = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    data = content.encode() if isinstance(content, str) else content
    try:
        descriptor = _open_nameless(path.parent)
        nameless = descriptor is not None
        if descriptor is None:
            descriptor = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(data)
            if nameless:
                try:
                    _give_name(descriptor, path)
                    return
                except FileExistsError:
                    if not replace:
                        raise
                _give_name(descriptor, hidden)
            if not replace:
                _require_new(hidden, path)
            os.replace(hidden, path)
        finally:
            os.close(descriptor)
            hidden.unlink(missing_ok=True)
    except FileExistsError:
        raise FileExistsError(f"{path} exists: {REMEDY}") from None
    except OSError as error:
        reason = error.strerror or error
        raise type(error)(f"cannot write {path}: {reason}; give a path in a folder that can be written") from error


def _open_nameless(folder: Path) -> int | None:
    """A file without a name in ``folder``; None where the system or the file system has no such thing."""
    if not hasattr(os, "O_TMPFILE") or not Path("/proc/self/fd").exists():
        return None
    try:
        return os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        raise
    except OSError:
        return None


def _give_name(descriptor: int, path: Path) -> None:
    # With a folder's descriptor given, Python asks for the link to be followed; an absolute path makes no use of it.
    os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor)


def _require_new(hidden: Path, path: Path) -> None:
    """Raise ``FileExistsError`` if ``path`` is taken; else take it, on systems with hard links, for ``hidden``."""
    try:
        os.link(hidden, path)
    except OSError:
        if os.path.lexists(path):
            raise FileExistsError from None
