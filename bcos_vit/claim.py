"""A folder or a file that one process calls its own, by a lock of the system that ends with the process.

A folder is locked itself, so that nothing lies in it that tells of the lock. A file that is to be written, and a folder
of a system that locks files only (NFS, Windows), are locked by a hidden file, which is removed at the end; one that a
killed process has left is of no account.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".bcos_vit.lock"
"""The hidden file in a folder that cannot be locked itself."""
_FILES_ONLY = (errno.EBADF, errno.EISDIR, errno.EINVAL, errno.EOPNOTSUPP)
_HELD = (errno.EACCES, errno.EAGAIN)
_PAUSE = 0.02  # seconds between two attempts
_mine: ContextVar[frozenset[str]] = ContextVar("_mine", default=frozenset())  # of this thread
_descriptors: set[int] = set()  # of this process


class HeldError(OSError):
    """Another process, or another thread, has claimed the same."""


class _NoLockError(OSError):
    """What was opened cannot be locked."""


@contextmanager
def claim_folder(folder: str | os.PathLike[str], *, wait: float = 0.0) -> Iterator[None]:
    """Hold a folder while the body runs; who holds it already may claim it again.

    Claims exclude each other, and nothing else: who writes there without a claim is not kept from it.

    Parameters
    ----------
    folder
        Must be there.
    wait
        Seconds to wait for another that holds it.

    Raises
    ------
    HeldError
        If another holds it.
    OSError
        If it is not there, or cannot be locked, above all where the file system has no locks, in a sentence.
    """
    folder = Path(folder)
    places = [(folder, os.O_RDONLY)] if os.name == "posix" else []
    with _claim(folder, [*places, (folder / LOCK, os.O_RDWR | os.O_CREAT)], wait):
        yield


@contextmanager
def claim_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a file that is to be written, there or not, while the body runs; as :func:`claim_folder`."""
    path = Path(path)
    with _claim(path, [(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT)], 0.0):
        yield


@contextmanager
def _claim(path: Path, places: list[tuple[Path, int]], wait: float) -> Iterator[None]:
    name = os.path.realpath(path)
    if name in _mine.get():
        yield
        return
    place, descriptor = _lock(path, places, wait)
    _descriptors.add(descriptor)
    before = _mine.set(_mine.get() | {name})
    try:
        yield
    finally:
        _mine.reset(before)
        if descriptor in _descriptors:  # else this is a fork of the process that holds it
            _descriptors.remove(descriptor)
            if place != path and os.name == "posix" and _is_at(place, descriptor):
                place.unlink()  # while it is held: whoever waits for it makes a new one
            os.close(descriptor)


def _lock(path: Path, places: list[tuple[Path, int]], wait: float) -> tuple[Path, int]:
    """The first of ``places`` that can be locked, and its descriptor."""
    deadline, reasons = time.monotonic() + wait, []
    for place, flags in places:
        try:
            return place, _hold(path, place, flags, deadline)
        except _NoLockError as error:
            reasons.append(str(error.strerror))
            if error.errno not in _FILES_ONLY:
                break
    raise OSError(
        f"{path} cannot be kept from other processes that write there, too, since its file system has no locks "
        f"({', '.join(reasons)}): give a path on another one"
    )


def _hold(path: Path, place: Path, flags: int, deadline: float) -> int:
    """The descriptor of ``place``, locked for ``path``."""
    while True:
        try:
            descriptor = os.open(place, flags, 0o666)
        except OSError as error:
            remedy = "give a path in a folder that can be written"
            raise type(error)(f"cannot write {path}: {error.strerror}; {remedy}") from error
        try:
            free = lock_descriptor(descriptor)
            if free and _is_at(place, descriptor):
                return descriptor
        except OSError as error:
            os.close(descriptor)
            raise _NoLockError(error.errno, error.strerror) from error
        os.close(descriptor)
        if not free and time.monotonic() >= deadline:
            raise HeldError(f"{path} is in use by another process: wait until it has ended, or give another name")
        if not free:
            time.sleep(_PAUSE)


def lock_descriptor(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed, also by the end of the process; False while another holds it.

    Not ``filelock``'s function of this name, which is new in 3.30: a machine with PyTorch has an older one at times.
    """
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise
    return True


def _is_at(place: Path, descriptor: int) -> bool:
    """Whether what is locked still bears the name: who held it before may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), place.stat())
    except FileNotFoundError:
        return False


def _forget() -> None:
    """In a forked process: the claims are its parent's, and end with the parent."""
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()
    _mine.set(frozenset())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
