"""Any photo, as upright 8-bit RGB: the door through which files of unknown origin come in."""

from __future__ import annotations

import os
import warnings
from functools import cache
from pathlib import Path
from typing import cast

from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""What is read. Formats that are programs or need other programs, such as EPS, are not."""
LONGEST = 100
"""The longer side may be so many times the shorter one: a line resized to a picture would fill the memory."""


class PhotoError(ValueError):
    """A file that cannot be read as a photo, and why."""


@cache
def suffixes() -> frozenset[str]:
    """The suffixes that go with :data:`FORMATS`, such as ``.jpg``, in lower case."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)


def read_photo(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file as it is meant to be seen, as 8-bit RGB.

    The orientation in EXIF is applied, transparency is laid over white, 16-bit grey is scaled to 8 bits, and of an
    animation or a stack of pages the first is taken (``frames`` in ``info`` says how many there were).

    Parameters
    ----------
    path
        A file in one of :data:`FORMATS`, whatever its suffix.

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
    path = Path(path)
    try:
        if path.is_dir():
            raise PhotoError(f"{path} is a folder: give the images in it")
        if not path.exists():
            raise PhotoError(f"there is no file {path}")
        if not path.is_file():
            raise PhotoError(f"{path} is no regular file")
        if path.stat().st_size == 0:
            raise PhotoError(f"{path} is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a large photo, or of a tag that makes no sense
            Image.init()
            with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
                return _upright_rgb(image, path)
    except PhotoError:
        raise
    except UnidentifiedImageError:
        raise PhotoError(f"{path} is no image that can be read: the formats are {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise PhotoError(
            f"{path} says it has more pixels than the {2 * (Image.MAX_IMAGE_PIXELS or 0):,} allowed"
        ) from None
    except Exception as error:  # a damaged file makes the decoders raise nearly anything
        if isinstance(error, OSError) and error.strerror:  # from the system, not from a decoder
            raise PhotoError(f"{path} cannot be read: {error.strerror}") from error
        raise PhotoError(f"{path} cannot be decoded, it is damaged: {error or type(error).__name__}") from error


def _upright_rgb(image: Image.Image, path: Path) -> Image.Image:
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a photo and its preview
    short, long = sorted(image.size)
    if long > LONGEST * short:
        raise PhotoError(f"{path} is {image.width} x {image.height} pixels: too narrow to show anything")
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    rgb = _rgb(image, path)
    rgb.info = {"frames": frames}
    return rgb


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode.startswith("I"):
        image = image.convert("I")  # 16 bits come in either byte order, and one of them has no extrema
        low, high = cast(tuple[float, float], image.getextrema())  # of the one channel
        if low < 0 or high > 65535:
            raise PhotoError(f"{path} holds whole numbers from {low} to {high}: give 8 or 16 bits, 0 to 65535")
        return image.point(lambda value: value * (255 / 65535) + 0.5).convert("L").convert("RGB")
    if image.mode == "F":
        low, high = cast(tuple[float, float], image.getextrema())
        raise PhotoError(f"{path} holds real numbers, from {low:g} to {high:g}: give 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        return white.convert("RGB")
    return image.convert("RGB")
