"""Files that are no photos, or hardly: what a folder of unknown origin may hold. Nothing here is larger than 1 MB."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import sklearn
from PIL import Image

CUT = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp"}


def bundled_photos() -> tuple[list[Path], Path]:
    """All photos that come with scikit-learn and scikit-image, and the one that Pillow cannot read."""
    folders = (Path(sklearn.__file__).parent / "datasets/images", Path(skimage.__file__).parent / "data")
    found = sorted(p for folder in folders for p in folder.iterdir() if p.suffix in (".png", ".jpg", ".tif", ".gif"))
    strange = next(p for p in found if p.name == "multipage_rgb.tif")
    return [p for p in found if p != strange], strange


def picture(width: int = 64, height: int = 48, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Noise, which no format shrinks to nothing."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """The bytes of ``image`` in a format of Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def write_refused(folder: Path) -> list[Path]:
    """What must be answered with a sentence: files, and paths that are none."""
    contents = _no_images() | _truncated() | _damaged_png() | _damaged_others() | _numbers_that_are_no_colours()
    paths = [folder / name for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_bytes(content)
    (folder / "a folder.jpg").mkdir()
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    os.mkfifo(folder / "fifo.jpg")
    names = ("a folder.jpg", "dangling.jpg", "loop.jpg", "fifo.jpg", "missing.jpg", f"{'long' * 80}.jpg")
    return paths + [folder / name for name in names] + [folder / "empty.png" / "below a file.jpg"]


def write_odd(folder: Path) -> list[Path]:
    """What must be read all the same."""
    good, rows = picture(), zlib.compress(bytes(3 * 40 * 40))
    contents = {
        "broken-exif.jpg": encoded(good, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + 40 * b"\xff"),
        "appended.jpg": encoded(good, "JPEG") + os.urandom(5000),
        "appended.png": encoded(good, "PNG") + b"PK\x03\x04" + os.urandom(5000),
        "wrong-suffix.jpg": encoded(good, "WEBP"),
        "no suffix": encoded(good, "TIFF"),
        "one-pixel.png": encoded(picture(1, 1), "PNG"),
        "at-the-limit.png": encoded(picture(1, 100), "PNG"),
        "animation.gif": encoded(good, "GIF", save_all=True, append_images=[picture(seed=1)]),
        "cyclic.tif": tiff(page(8), following=8, data=bytes(400)),
        "wrong-data-crc.png": png(32, 32, chunk(b"IDAT", rows, crc=1)),
        "overlong.png": png(32, 32, chunk(b"IDAT", zlib.compress(bytes(50_000_000), 9))),
        "short-palette.png": png(32, 32, chunk(b"PLTE", bytes(7)), chunk(b"IDAT", rows), colour=3),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "link.jpg").symlink_to(folder / "appended.jpg")
    return [folder / name for name in (*contents, "link.jpg")]


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    """A chunk of a PNG file."""
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2, crc: int | None = None) -> bytes:
    """A PNG file with a header that says so, and ``chunks``."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header, crc) + b"".join(chunks) + chunk(b"IEND", b"")


def tiff(tags: dict[int, int], *, following: int = 0, data: bytes = b"") -> bytes:
    """A TIFF file of whole-number tags; ``following`` is the offset of the next page."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + struct.pack("<I", following) + data


def page(size: int) -> dict[int, int]:
    """The tags of an uncompressed grey page: sides, bits, compression, colours, and where the rows are."""
    return {256: size, 257: size, 258: 8, 259: 1, 262: 1, 273: 120, 278: size, 279: 64}


def bmp(width: int, height: int, size: int = 40, data: bytes = b"\0" * 64) -> bytes:
    """A BMP file with a header that says so."""
    header = struct.pack("<IiiHHIIiiII", size, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + header + data


def _no_images() -> dict[str, bytes]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("photo.jpg", encoded(picture(), "JPEG"))
    return {
        "empty.png": b"",
        "text.png": b"this is a text, not a picture\n" * 20,
        "page.jpg": b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><path d="M1 1"/></svg>',
        "document.pdf": encoded(picture(), "PDF"),
        "figure.eps": encoded(picture(), "EPS"),
        "figure-eps.jpg": encoded(picture(), "EPS"),
        "pickle.jpg": pickle.dumps(picture()),
        "noise.jpg": np.random.default_rng(0).bytes(5000),
        "noise-after-magic.jpg": b"\xff\xd8\xff\xe0" + np.random.default_rng(1).bytes(5000),
        "noise-after-magic.png": b"\x89PNG\r\n\x1a\n" + np.random.default_rng(1).bytes(5000),
        "archive.jpg": archive.getvalue(),
        "\x1b[31mred\nline.jpg": b"a name that would speak to the terminal",
    }


def _truncated() -> dict[str, bytes]:
    whole = {suffix: encoded(picture(), form) for form, suffix in CUT.items()}
    return {
        f"cut-at-{percent}{suffix}": content[: len(content) * percent // 100]
        for suffix, content in whole.items()
        for percent in (1, 50, 90)
    }


def _damaged_png() -> dict[str, bytes]:
    bomb = zlib.compress(bytes(20_000 * 20_000 // 8), 9)
    rows = zlib.compress(bytes(3 * 40 * 40))
    return {
        "60000-square.png": png(60_000, 60_000, chunk(b"IDAT", rows)),
        "bomb.png": png(20_000, 20_000, chunk(b"IDAT", bomb), depth=1, colour=0),
        "line.png": encoded(Image.new("RGB", (1, 30_000)), "PNG"),
        "lying-line.png": encoded(Image.new("RGB", (30_000, 1)), "PNG"),
        "wordy.png": png(40, 40, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000), 9)), chunk(b"IDAT", rows)),
        "nothing.png": png(0, 0, chunk(b"IDAT", rows)),
        "no-width.png": png(0, 40, chunk(b"IDAT", rows)),
        "wrong-crc.png": png(32, 32, chunk(b"IDAT", rows), crc=1),
        "no-data.png": png(32, 32),
        "not-zlib.png": png(32, 32, chunk(b"IDAT", b"not compressed at all" * 9)),
        "impossible-depth.png": png(32, 32, chunk(b"IDAT", rows), depth=7),
    }


def _damaged_others() -> dict[str, bytes]:
    return {
        "endless.tif": tiff(page(2**31), data=bytes(400)),
        "cut-page.tif": tiff(page(8), data=bytes(30)),
        "no-tags.tif": tiff({}),
        "negative.bmp": bmp(-40, 40),
        "huge.bmp": bmp(2**31 - 1, 2**31 - 1),
        "header-size.bmp": bmp(8, 8, size=2**32 - 1),
        "nonsense.ico": b"\0\0\1\0\2\0" + bytes(range(200)),
        "icon-of-nothing.ico": b"\0\0\1\0\0\0",
        "nonsense.webp": b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(range(200)),
        "nonsense.avif": b"\0\0\0\x1cftypavif" + bytes(range(200)),
        "nonsense.jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(range(200)),
        "too-large.ppm": b"P6 99999 99999 255\n" + bytes(300),
        "nonsense.gif": b"GIF89a" + 300 * b"\xff",
        "no-scan.jpg": b"\xff\xd8\xff\xd9",
    }


def _numbers_that_are_no_colours() -> dict[str, bytes]:
    ramp = np.linspace(0, 1, 48 * 64, dtype=np.float32).reshape(48, 64)
    return {
        "float.tif": encoded(Image.fromarray(ramp), "TIFF"),
        "counts.tif": encoded(Image.fromarray((1e6 * ramp).astype(np.int32)), "TIFF"),
        "negative.tif": encoded(Image.fromarray((100 * ramp - 50).astype(np.int32)), "TIFF"),
    }
