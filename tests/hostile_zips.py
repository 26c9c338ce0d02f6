"""Archives that are no archives of ``torch.save``, or lie about what is in them, and files of other kinds."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from hostile_pickles import CANARY, UNSAFE, Calls, Case, archive, call, mapping, number, program, text, zipped
from releases import published, saved

GOOD = program(b"}")
MEMORY = program(mapping((text("a"), call("__builtin__ bytearray", number(3 * 2**28)))))
"""A pickle that fills 768 MB, which torch's own reader allows."""


def _split(content: bytes) -> tuple[bytes, bytes]:
    """The entries and the directory of an archive."""
    size, offset = struct.unpack_from("<II", content, len(content) - 10)
    return content[:offset], content[offset : offset + size]


def _moved(directory: bytes, by: int) -> bytes:
    """A directory whose entries lie elsewhere."""
    moved, at = bytearray(directory), 0
    while at < len(moved):
        lengths = struct.unpack_from("<HHH", moved, at + 28)
        struct.pack_into("<I", moved, at + 42, struct.unpack_from("<I", moved, at + 42)[0] + by)
        at += 46 + sum(lengths)
    return bytes(moved)


def _end(count: int, size: int, offset: int) -> bytes:
    return struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, min(count, 65535), min(count, 65535), size, offset, 0)


def two_directories() -> bytes:
    """Python reads the directory before the end, torch the one at the offset that the end names."""
    evil, shown = _split(archive(MEMORY)), _split(archive(GOOD))
    at = len(evil[0]) + len(shown[0])
    directory = _moved(shown[1], len(evil[0]) - len(evil[1]))
    return evil[0] + shown[0] + evil[1] + directory + _end(3, len(evil[1]), at)


def two_ends(count: int) -> bytes:
    """The first end, of 64 bits, which readers prefer, has a directory of many entries; the last says of few."""
    entries, directory = _split(archive(GOOD))
    header = struct.Struct("<4sHHHHHHIIIHHHHHII")
    lengths = (0, 0, 0, 10, 0, 0, 0, 0, 0, 0)
    empty = header.pack(b"PK\1\2", 20, 20, 0, 0, 0, 0, *lengths)
    directory += b"".join(empty + b"x/%08d" % place for place in range(count))
    record = (44, 45, 45, 0, 0, count + 3, count + 3, len(directory), len(entries))
    wide = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", *record)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(entries) + len(directory), 1)
    return entries + directory + wide + locator + _end(3, 168, len(entries))


def hidden_end() -> bytes:
    """The comment of the last entry, which ends the directory, ends as a locator of another end, inside a storage."""
    evil, evil_directory = _split(archive(MEMORY))
    at = len(evil) + len(evil_directory)
    wide = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 3, 3, len(evil_directory), len(evil))
    content = zipped({"x/data/0": evil + evil_directory + wide, "x/data.pkl": GOOD, "x/version": b"3\n"})
    start = content.index(evil)
    entries, directory = _split(content)
    moved = _moved(evil_directory, start)
    wide = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 3, 3, len(moved), start + len(evil))
    entries = entries[:start] + evil + moved + wide + entries[start + at + len(wide) :]
    listed = bytearray(directory)
    struct.pack_into("<H", listed, listed.rfind(b"PK\1\2") + 32, 20)
    listed += struct.pack("<4sIQI", b"PK\6\7", 0, start + at, 1)
    return entries + bytes(listed) + _end(3, len(listed), len(entries))


def half_an_end() -> bytes:
    """A locator of a 64-bit end that is none."""
    entries, directory = _split(archive(GOOD))
    wide = struct.pack("<4sQHHIIQQQQ", b"PK\6\5", 44, 45, 45, 0, 0, 3, 3, len(directory), len(entries))
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(entries) + len(directory), 1)
    return entries + directory + wide + locator + _end(3, len(directory), len(entries))


def remarked() -> bytes:
    """An entry with a comment."""
    entries, directory = _split(archive(GOOD))
    listed = bytearray(directory + b"hello")
    struct.pack_into("<H", listed, listed.rfind(b"PK\1\2") + 32, 5)
    return entries + bytes(listed) + _end(3, len(listed), len(entries))


def rotten() -> bytes:
    """A good model with one bit of one number turned over."""
    content = bytearray(published())
    content[content.index(b"PK\1\2") // 2] ^= 1
    return bytes(content)


def many_entries(count: int) -> bytes:
    return zipped({"x/data.pkl": GOOD, "x/version": b"3\n"} | {f"x/{place:060}": b"" for place in range(count)})


def large_record(name: str, size: int = 280 * 2**20) -> Callable[[Path], None]:
    """A record other than a storage, of so many zeros that take no room on the disk."""

    def write(path: Path) -> None:
        content = zipped({"x/data.pkl": GOOD, "x/version": b"3\n", f"x/{name}": b""} | {f"x/{name}": b""})
        entries, directory = _split(content)
        local, listed = entries.rfind(b"PK\3\4"), directory.rfind(b"PK\1\2")
        head, place = bytearray(entries), bytearray(directory)
        struct.pack_into("<II", head, local + 18, size, size)
        struct.pack_into("<II", place, listed + 20, size, size)
        with path.open("wb") as file:
            file.write(head)
            file.seek(len(head) + size)
            file.write(bytes(place) + _end(content.count(b"PK\1\2"), len(place), len(head) + size))

    return write


def bomb(megabytes: int = 1100) -> bytes:
    """A storage that is a megabyte, and unpacks to more than a gigabyte."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = block * megabytes + packer.flush()
    content = bytearray(zipped({"x/data.pkl": GOOD, "x/version": b"3\n", "x/data/0": packed}))
    for mark, method, sizes in ((b"PK\3\4", 8, 22), (b"PK\1\2", 10, 24)):
        at = content.rfind(mark)
        struct.pack_into("<H", content, at + method, zipfile.ZIP_DEFLATED)
        struct.pack_into("<I", content, at + sizes, megabytes * 2**20)
    return bytes(content)


def claims(size: int) -> bytes:
    """A storage of 16 bytes that is said to have ``size``."""
    content = bytearray(zipped({"x/data.pkl": GOOD, "x/version": b"3\n", "x/data/0": bytes(16)}))
    for mark, sizes in ((b"PK\3\4", 18), (b"PK\1\2", 20)):
        struct.pack_into("<II", content, content.rfind(mark) + sizes, size, size)
    return bytes(content)


def overlapping() -> bytes:
    """Two names for one storage, so that the whole is larger than the file."""
    entries, directory = _split(zipped({"x/data.pkl": GOOD, "x/version": b"3\n", "x/data/0": bytes(5000)}))
    last = directory[directory.rfind(b"PK\1\2") :]
    directory += last.replace(b"x/data/0", b"x/data/1")
    return entries + directory + _end(4, len(directory), len(entries))


def flagged(flag: int) -> bytes:
    content = bytearray(archive(GOOD))
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        struct.pack_into("<H", content, content.find(mark) + at, flag)
    return bytes(content)


def twice(first: str, second: str, *, evil: bytes = MEMORY) -> bytes:
    """Two entries of these names, and what every archive has."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as file:
        warnings.simplefilter("ignore")  # of the duplicate
        for name, content in ((first, GOOD), (second, evil), ("x/version", b"3\n")):
            file.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def tarred(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("storages", "tensors", "pickle", "../../evil"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def commented() -> bytes:
    content = archive(GOOD)
    return content[:-2] + struct.pack("<H", 5) + b"hello"


STRANGE = "its entries are not named as torch.save does it"
TWICE = "it has an entry twice"
NEITHER = "neither a safetensors file nor an archive of torch.save"
SCRIPT = {"constants.pkl": program(b")"), "code/__torch__.py": b"import os\n", "code/__torch__.py.debug_pkl": b""}
SYSTEM = Calls(os.system, f"touch {CANARY}")

CASES: dict[str, Case] = {
    "two-directories": (two_directories, UNSAFE),
    "hidden-end": (hidden_end, UNSAFE),
    "half-an-end": (half_an_end, "its end is damaged"),
    "two-ends": (lambda: two_ends(60_000), UNSAFE),
    "many-entries": (lambda: many_entries(9_000), "a directory of .* bytes is more than weights need"),
    "bomb": (bomb, "its entries are compressed"),
    "compressed": (lambda: zipped({"x/data.pkl": GOOD}, compression=zipfile.ZIP_DEFLATED), "entries are compressed"),
    "bzip2": (lambda: zipped({"x/data.pkl": GOOD}, compression=zipfile.ZIP_BZIP2), "entries are compressed"),
    "claims-4-gigabytes": (lambda: claims(2**32 - 2), "claim to be larger than the file"),
    "claims-a-megabyte": (lambda: claims(2**20), "claim to be larger than the file"),
    "overlapping": (overlapping, "claim to be larger than the file"),
    "encrypted": (lambda: flagged(1), UNSAFE),
    "strongly-encrypted": (lambda: flagged(65), UNSAFE),
    "patched": (lambda: flagged(32), UNSAFE),
    "same-name": (lambda: twice("x/data.pkl", "x/data.pkl"), TWICE),
    "same-name-in-capitals": (lambda: twice("x/data.pkl", "x/DATA.PKL"), TWICE),
    "same-name-after-a-zero": (lambda: twice("x/data.pkl", "x/data.pkl~y").replace(b"pkl~", b"pkl\0"), STRANGE),
    "name-of-other-letters": (lambda: twice("x/data.pkl", "x/dätä"), STRANGE),
    "name-for-the-terminal": (lambda: twice("x/data.pkl", "x/\x1b[31m"), STRANGE),
    "two-folders": (lambda: twice("x/data.pkl", "y/data.pkl"), STRANGE),
    "folder-in-a-folder": (lambda: twice("x/y/data.pkl", "x/data.pkl"), UNSAFE),
    "capitals-alone": (lambda: twice("x/other", "x/DATA.PKL"), UNSAFE),
    "up": (lambda: twice("x/data.pkl", "x/../../../evil"), STRANGE),
    "up-at-once": (lambda: zipped({"../data.pkl": GOOD, "../version": b"3\n"}), STRANGE),
    "absolute": (lambda: zipped({"/tmp/data.pkl": GOOD, "/tmp/evil": b"3\n"}), ""),
    "drive": (lambda: zipped({"C:\\x/data.pkl": GOOD, "C:\\x/..\\evil": b"3\n"}), ""),
    "no-folder": (lambda: zipped({"data.pkl": GOOD, "version": b"3\n"}), ""),
    "no-pickle": (lambda: zipped({"x/version": b"3\n"}), "it holds no data.pkl"),
    "no-version": (lambda: zipped({"x/data.pkl": GOOD}), ""),
    "strange-version": (lambda: zipped({"x/data.pkl": GOOD, "x/version": b"99999999\n"}), UNSAFE),
    "version-that-is-no-number": (lambda: zipped({"x/data.pkl": GOOD, "x/version": b"\x1b[31m"}), UNSAFE),
    "strange-byteorder": (lambda: archive(GOOD, {"byteorder": b"\x1b[31m\n"}), UNSAFE),
    "script": (lambda: archive(GOOD, SCRIPT), UNSAFE),
    "script-that-runs": (lambda: archive(pickle.dumps(SYSTEM, 2), SCRIPT), UNSAFE),
    "bit-rot": (rotten, "its entry '.*' is damaged"),
    "entry-with-a-comment": (remarked, "have comments"),
    "comment": (commented, "its end is missing"),
    "bytes-after-its-end": (lambda: archive(GOOD) + b"\0", "its end is missing"),
    "nothing-but-an-end": (lambda: b"PK\5\6" + bytes(18), NEITHER),
    "nothing-but-a-beginning": (lambda: b"PK\3\4", UNSAFE),
    "beginning-and-end": (lambda: b"PK\3\4" + _end(0, 0, 4), UNSAFE),
    "directory-elsewhere": (lambda: b"PK\3\4" + _end(1, 2**20, 2**31), UNSAFE),
    "bytes-before-its-beginning": (lambda: b"MZ" + archive(GOOD), NEITHER),
    "another-archive-before-it": (lambda: archive(MEMORY) + archive(GOOD), UNSAFE),
    "legacy": (lambda: saved({"a": SYSTEM}, _use_new_zipfile_serialization=False), NEITHER),
    "bare-pickle": (lambda: pickle.dumps(SYSTEM, 2), NEITHER),
    "bare-pickle-4": (lambda: pickle.dumps(SYSTEM, 4), NEITHER),
    "tar": (lambda: tarred(pickle.dumps(SYSTEM, 2)), NEITHER),
    "gzip": (lambda: gzip.compress(published()), NEITHER),
    "page": (lambda: b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>", NEITHER),
    "noise": (lambda: b"\xf1\x8e\x02" * 3000, NEITHER),
    "empty": (lambda: b"", "is not a safetensors file"),
    "one-byte": (lambda: b"P", "is not a safetensors file"),
    "zeros": (lambda: bytes(5000), "is not a safetensors file"),
}
CASES = {f"zip-{name}": case for name, case in CASES.items()}

LARGE = {
    f"large-{name.rpartition('/')[2].strip('.')}": large_record(name)
    for name in ("byteorder", "version", ".data/serialization_id", ".format_version")
}
"""Files that are sparse: they take no room on the disk, and would in memory."""
