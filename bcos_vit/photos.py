"""Any photo, as upright 8-bit RGB: the door through which files and images of unknown origin come in."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import cast

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from bcos_vit.paths import user_path

FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""What is read. Formats that are programs or need other programs, such as EPS, are not."""
LONGEST = 100
"""The longer side may be so many times the shorter one: a line resized to a picture would fill the memory."""


PHONES = (".heic", ".heif")
"""Suffixes of photos as some phones keep them, which Pillow does not read."""


class PhotoError(ValueError):
    """A file or an image that cannot be read as a photo, and why."""


@cache
def suffixes() -> frozenset[str]:
    """The suffixes that go with :data:`FORMATS`, such as ``.jpg``, in lower case."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)


def read_photo(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file as it is meant to be seen, as 8-bit RGB.

    The orientation in EXIF is applied, transparency is laid over white, 16-bit grey is scaled to 8 bits, and of an
    animation or a stack of pages the first is taken (``frames`` in ``info`` says how many there were).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("L", (5, 4), 128).save(f"{folder}/grey.png")
    ...     read_photo(f"{folder}/grey.png").mode
    'RGB'

    Parameters
    ----------
    path
        A file in one of :data:`FORMATS`, whatever its suffix; a leading ``~`` is the home folder.

    Returns
    -------
    PIL.Image.Image
        In mode RGB.

    Raises
    ------
    PhotoError
        In a sentence that names the file: it is missing, no regular file, unreadable, empty, no image, damaged, of
        more than 178,956,970 pixels (Pillow's limit), or longer than 100 times its shorter side.
    """
    if re.match(r"[a-z][a-z0-9+.-]*://", os.fspath(path)):
        raise PhotoError(f"{path} is an address: download the photo, and give the path of the file")
    path = user_path(path)
    with _said_of(str(path)):
        if path.is_dir():
            raise PhotoError(f"{path} is a folder: give the images in it")
        if not path.exists():
            raise PhotoError(f"there is no file {path}")
        if not path.is_file():
            raise PhotoError(f"{path} is no regular file")
        if path.stat().st_size == 0:
            raise PhotoError(f"{path} is empty")
        Image.init()
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a photo and its preview
            photo = _upright_rgb(image, str(path))
            photo = photo.copy() if photo is image else photo  # which no longer hangs on the file
            photo.info = {"frames": frames}
            return photo


def as_photo(image: Image.Image) -> Image.Image:
    """The image as it is meant to be seen, as 8-bit RGB, by the rules of :func:`read_photo`.

    Parameters
    ----------
    image
        In any mode of Pillow, opened from a file or made in memory; it is not changed.

    Returns
    -------
    PIL.Image.Image
        In mode RGB; ``image`` itself where there is nothing to do.

    Raises
    ------
    PhotoError
        In a sentence that names its file, if it is known: the image is damaged, has no pixels, is longer than 100
        times its shorter side, or holds numbers without a known white.
    """
    name = str(getattr(image, "filename", "") or "the image")
    with _said_of(name):
        return _upright_rgb(image, name)


@contextmanager
def _said_of(name: str) -> Iterator[None]:
    """Whatever goes wrong while ``name`` is read becomes a :class:`PhotoError` in a sentence that names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a large photo, or of a tag that makes no sense
            yield
    except PhotoError:
        raise
    except UnidentifiedImageError:
        remedy = "; save it as JPEG" if name.lower().endswith(PHONES) else ""
        raise PhotoError(f"{name} is no image that can be read: the formats are {', '.join(FORMATS)}{remedy}") from None
    except Image.DecompressionBombError:
        raise PhotoError(
            f"{name} says it has more pixels than the {2 * (Image.MAX_IMAGE_PIXELS or 0):,} allowed"
        ) from None
    except Exception as error:  # a damaged file makes the decoders raise nearly anything
        if isinstance(error, OSError) and error.strerror:  # from the system, not from a decoder
            raise PhotoError(f"{name} cannot be read: {error.strerror}") from error
        raise PhotoError(f"{name} cannot be decoded, it is damaged: {error or type(error).__name__}") from error


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """``image`` turned upright and in mode RGB; itself, never changed, where it is so already."""
    short, long = sorted(image.size)
    if not short:
        raise PhotoError(f"{name} is {image.width} x {image.height} pixels: there is nothing in it")
    if long > LONGEST * short:
        raise PhotoError(f"{name} is {image.width} x {image.height} pixels: too narrow to show anything")
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    return _rgb(image, name)


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I"):
        image = image.convert("I")  # 16 bits come in either byte order, and one of them has no extrema
        low, high = cast(tuple[float, float], image.getextrema())  # of the one channel
        if low < 0 or high > 65535:
            raise PhotoError(f"{name} holds whole numbers from {low} to {high}: give 8 or 16 bits, 0 to 65535")
        return image.point(lambda value: value * (255 / 65535) + 0.5).convert("L").convert("RGB")
    if image.mode == "F":
        low, high = cast(tuple[float, float], image.getextrema())
        raise PhotoError(f"{name} holds real numbers, from {low:g} to {high:g}: give 8 or 16 bits")
    if image.has_transparency_data:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        return white.convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
