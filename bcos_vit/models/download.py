"""Fetching a file: resumed where it was cut, whole or not there, and verified by its SHA-256.

Beside ``FILE`` lies ``FILE.partial`` while it is on its way, and ``FILE.sha256`` once it has been verified.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import re
import socket
import ssl
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from bcos_vit.atomic import write_whole
from bcos_vit.models.reading import reason

TIMEOUT = 30.0
"""Seconds without a byte after which a server is asked again."""
WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further request."""
_CHUNK = 2**18
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # from a server that may do better in a moment
_NETWORK = (URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


def sha256(path: Path) -> str:
    """The hex digits of the file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def expected_hash(path: Path, prefix: str) -> str:
    """The hash kept beside ``path``, or ``prefix`` where none is; ``ValueError`` if the two do not agree."""
    kept = _beside(path)
    if not kept.is_file():
        return prefix
    digest = kept.read_text(encoding="utf-8", errors="replace").strip()
    if not re.fullmatch("[0-9a-f]{64}", digest) or not digest.startswith(prefix):
        raise ValueError(f"{kept} holds no SHA-256 that starts with {prefix}: remove it")
    return digest


def verify(path: Path, prefix: str) -> str:
    """Compare a file with the hash kept beside it, or, where none is kept yet, with the first digits known.

    Returns
    -------
    str
        Its whole SHA-256.

    Raises
    ------
    ValueError
        If it is another file.
    """
    expected, found = expected_hash(path, prefix), sha256(path)
    if not found.startswith(expected):
        raise ValueError(
            f"{path} is not the file that was published: its SHA-256 starts with {found[:10]}, not {expected[:10]}; "
            "remove it to fetch it again"
        )
    return found


def keep_hash(path: Path, digest: str) -> None:
    """Write ``digest`` beside the file, which is held to it from then on."""
    if not _beside(path).is_file():
        write_whole(_beside(path), f"{digest}\n")


def download(address: str, path: Path, prefix: str, *, most: int) -> None:
    """Fetch ``address`` to ``path``, with a progress bar on stderr, verify it, and keep its hash.

    Parameters
    ----------
    prefix
        The first digits of the file's SHA-256.
    most
        Bytes that it may have at most.

    Raises
    ------
    OSError
        If it cannot be fetched or written, or is another file. ``path`` is not there then; what has been received of
        it stays beside, for the next time, unless it was wrong.
    ValueError
        If the address or the hash kept beside ``path`` is no such thing.
    """
    try:
        known = urlsplit(address).scheme in ("http", "https") and address.isascii() and address.isprintable()
    except ValueError:
        known = False
    if not known:
        raise ValueError(f"an address looks like https://server/folder/file, found {address!r}")
    expected = expected_hash(path, prefix)
    partial = path.with_name(f"{path.name}.partial")
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(partial, flags, 0o666), "r+b") as file:
        resumed = file.seek(0, os.SEEK_END) > 0
        try:
            _fetch(address, file, expected, most)
            if resumed and not _digest(file).startswith(expected):  # what lay there was of another file
                file.truncate(0)
                _fetch(address, file, expected, most)
            found = _digest(file)
            if not found.startswith(expected):
                raise _WrongFileError(f"it is another file: its SHA-256 starts with {found[:10]}, not {expected[:10]}")
        except _WrongFileError:
            partial.unlink()
            raise
    keep_hash(path, found)
    os.replace(partial, path)


class _WrongFileError(OSError):
    """What was received is of no use."""


def _fetch(address: str, file: io.BufferedRandom, expected: str, most: int) -> None:
    """Append to ``file`` what it lacks, asking again as long as that gets on, and several times where it does not."""
    waits = iter(WAITS)
    while True:
        there = file.seek(0, os.SEEK_END)
        try:
            return _receive(address, file, most)
        except HTTPError as error:
            if error.code == 416:  # it has no more than is there already
                return
            said = f"it answers {error.code} {reason(error.reason)}"
            if error.code not in _PASSING:
                raise OSError(said) from error
        except _NETWORK as error:
            cause = getattr(error, "reason", error)
            if isinstance(cause, socket.gaierror):  # no network, or no such server
                raise OSError(cause.strerror) from error
            said = reason(cause)
            if _digest(file).startswith(expected):  # the length that was promised was wrong, not the file
                return
        if file.seek(0, os.SEEK_END) > there:
            waits = iter(WAITS)
        if (wait := next(waits, None)) is None:
            raise OSError(f"asked {1 + len(WAITS)} times in vain, at last: {said}")
        time.sleep(wait)


def _receive(address: str, file: io.BufferedRandom, most: int) -> None:
    there = file.seek(0, os.SEEK_END)
    headers = {"User-Agent": "bcos_vit"} | ({"Range": f"bytes={there}-"} if there else {})
    with urlopen(Request(address, headers=headers), timeout=TIMEOUT) as answer:
        if there and not (answer.headers.get("Content-Range") or "").startswith(f"bytes {there}-"):
            there = file.seek(file.truncate(0))  # the whole file comes
        length = answer.headers.get("Content-Length", "")
        total = there + int(length) if length.isdecimal() and len(length) < 20 else None
        name = address.rpartition("/")[2]
        with tqdm(total=total, initial=there, unit="B", unit_scale=True, unit_divisor=1024, desc=name) as bar:
            while chunk := answer.read(_CHUNK):
                there += file.write(chunk)
                bar.update(len(chunk))
                if there > most:
                    raise _WrongFileError(f"it is another file: it has more than {most:,} bytes")
    file.flush()
    if total is not None and there < total:
        raise ConnectionError(f"the transfer was cut after {there:,} of {total:,} bytes")


def _digest(file: io.BufferedRandom) -> str:
    file.flush()
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
