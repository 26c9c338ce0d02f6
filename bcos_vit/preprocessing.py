"""From a photo, as a user holds it, to the image that a model is meant for."""

from __future__ import annotations

import os
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from bcos_vit.photos import as_photo, read_photo

Fit = Literal["crop", "whole", "pad"]
Photo = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]

PADDING = (128, 128, 128)
"""The colour of what ``"pad"`` adds: mid grey, as far from black as from white."""
MOST_TOKENS = 2048
"""Of an image of fit ``"whole"``: memory grows with their square. To explain one image of so many takes 1.6 GiB with
``bcos_vitc_s_rope_patch1_14`` on a CPU, and one of twice as many 5.4 GiB."""
LONG = 1.6
"""A photo whose longer side is more than so many times the shorter one loses much when it is cropped to a square."""


class Preprocessing:  # no dataclass, which Hydra would merge into its configuration
    """A photo -> (3, H, W) RGB in [0, 1], float32: what ``model.transform`` is.

    >>> from PIL import Image
    >>> transform = Preprocessing(image_size=224, patch_size=16)
    >>> panorama = Image.new("RGB", (3000, 400))
    >>> transform(panorama).shape, transform(panorama, fit="whole").shape
    (torch.Size([3, 224, 224]), torch.Size([3, 224, 1680]))

    Parameters
    ----------
    image_size
        Side, in pixels, of the square images that the model is meant for.
    patch_size
        Side of the model's patches in pixels; None for a model that takes images of ``image_size`` only.
    """

    def __init__(self, image_size: int, patch_size: int | None = None) -> None:
        self.image_size = image_size
        self.patch_size = patch_size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Preprocessing) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.image_size, self.patch_size))

    def __repr__(self) -> str:
        return f"Preprocessing(image_size={self.image_size}, patch_size={self.patch_size})"

    def __call__(self, photo: Photo, fit: Fit = "crop") -> Tensor:
        """Make the image that the model is meant for, and leave ``photo`` as it is.

        Parameters
        ----------
        photo
            The path of an image file, a PIL image of any mode, or an (H, W, 3) array of RGB in uint8, all read by the
            rules of :func:`~bcos_vit.photos.read_photo`: the orientation in EXIF is applied, transparency is laid over
            white, 16-bit grey is scaled.
        fit
            ``"crop"``: resize the shorter side bilinearly and crop the centre; the crop is 224 / 256 of the resized
            side, as for the published models, and all of it for images below 64 pixels. ``"whole"``: resize the
            shorter side to ``image_size`` and the longer one to the nearest multiple of ``patch_size``; nothing is
            cut. ``"pad"``: resize the longer side to ``image_size`` and fill the square up with mid grey
            (128, 128, 128) on both sides.

        Returns
        -------
        Tensor
            (3, image_size, image_size); with ``"whole"``, (3, H, W) of which one is ``image_size``.

        Raises
        ------
        TypeError
            For anything but a path, a PIL image or a uint8 array, with the way to make one of it.
        ValueError
            For an array of another shape, a photo that cannot be read (:class:`~bcos_vit.photos.PhotoError`), another
            word for ``fit``, or ``"whole"`` for a model of one image size or of more than 2,048 tokens (or the model's
            own number, if that is larger).
        """
        self.require_fit(fit)
        image = _opened(photo)
        if fit == "crop":
            image = F.resize(image, [resized(self.image_size)], InterpolationMode.BILINEAR)
            image = F.center_crop(image, [self.image_size, self.image_size])
        elif fit == "whole":
            image = F.resize(image, self._whole(image), InterpolationMode.BILINEAR)
        else:
            image = self._padded(image)
        return F.to_dtype(F.pil_to_tensor(image), torch.float32, scale=True)

    def require_fit(self, fit: str) -> None:
        """Raise ``ValueError`` unless ``fit`` is a word that can be used with this model."""
        if fit not in get_args(Fit):
            raise ValueError(f"fit must be one of {', '.join(get_args(Fit))}, found {fit!r}")
        if fit == "whole" and self.patch_size is None:
            size = self.image_size
            raise ValueError(
                f"fit 'whole' makes images of other shapes than {size} x {size}, which a model with position "
                "'prior', or whose patch_size is not known, does not take: give fit 'crop' or 'pad'"
            )

    def cut(self, width: int, height: int) -> float:
        """The share of a photo's area that fit ``"crop"`` cuts away, in [0, 1)."""
        short, long = sorted((width, height))
        return 1 - (self.image_size / resized(self.image_size)) ** 2 * short / long

    def _whole(self, image: Image.Image) -> list[int]:
        """Height and width for fit ``"whole"``."""
        assert self.patch_size is not None
        scale = self.image_size / min(image.size)
        columns, rows = (round(side * scale / self.patch_size) for side in image.size)
        most = max(MOST_TOKENS, (self.image_size // self.patch_size) ** 2)
        if rows * columns > most:
            raise ValueError(
                f"a photo of {image.width} x {image.height} pixels is {columns} x {rows} patches with fit 'whole': "
                f"{columns * rows:,} tokens, more than the {most:,} that memory is meant to hold: give fit 'crop' or "
                "'pad', or cut the photo into pieces"
            )
        return [rows * self.patch_size, columns * self.patch_size]

    def _padded(self, image: Image.Image) -> Image.Image:
        scale = self.image_size / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        square = Image.new("RGB", (self.image_size, self.image_size), PADDING)
        inside = F.resize(image, [height, width], InterpolationMode.BILINEAR)
        square.paste(inside, ((self.image_size - width) // 2, (self.image_size - height) // 2))
        return square


def resized(image_size: int) -> int:
    """To how many pixels the shorter side of a photo is resized before ``image_size`` pixels are cropped.

    224 of 256 are cropped, as for the published models; images below 64 pixels are too small to give any away.
    """
    return image_size if image_size < 64 else round(image_size * 256 / 224)


def preprocessing_in_words(image_size: int) -> str:
    """What :class:`Preprocessing` does to a photo with fit ``"crop"``."""
    return f"shorter side to {resized(image_size)} pixels (bilinear), centre crop of {image_size}, RGB in [0, 1]"


def _opened(photo: Any) -> Image.Image:
    """``photo`` as an upright PIL image in mode RGB."""
    if isinstance(photo, str | os.PathLike):
        return read_photo(photo)
    if isinstance(photo, Image.Image):
        return as_photo(photo)
    if isinstance(photo, np.ndarray):
        _check_array(photo)
        return as_photo(Image.fromarray(photo))
    raise TypeError(
        f"a photo is a path, a PIL image or an (H, W, 3) array of uint8, found {type(photo).__name__}{_remedy(photo)}"
    )


def _remedy(found: object) -> str:
    """How to make a photo of what is none, where there is a way."""
    if isinstance(found, Tensor):
        return (
            ": images in [0, 1] go to the model as they are, and a (3, H, W) tensor of uint8 becomes an array with "
            "tensor.permute(1, 2, 0).numpy()"
        )
    if isinstance(found, bytes | bytearray | memoryview):
        return ": open it with PIL.Image.open(io.BytesIO(data))"
    if isinstance(found, list | tuple):
        return ": give one photo at a time, as in torch.stack([model.transform(photo) for photo in photos])"
    return ": open it with PIL.Image.open(file)" if hasattr(found, "read") else ""


def _check_array(array: NDArray[Any]) -> None:
    """Raise ``TypeError`` for another dtype than uint8, and ``ValueError`` for another shape than (H, W, 3)."""
    needed = "an array must hold RGB as (H, W, 3) in uint8"
    if array.dtype != np.uint8:
        ways = {"f": "(255 * array).round().astype('uint8') for values in [0, 1]", "b": "255 * array.astype('uint8')"}
        way = ways.get(array.dtype.kind, "array.astype('uint8') for values from 0 to 255")
        raise TypeError(f"{needed}, found {array.dtype} in {array.shape}: give {way}")
    if array.ndim == 3 and array.shape[2] == 3:
        return
    way = "give one photo at a time" if array.ndim == 4 else "an image of another kind goes in as a PIL image"
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 2, 4)):  # grey, or with transparency
        way = f"give PIL.Image.fromarray(array{'[:, :, 0]' if array.shape[2:] == (1,) else ''})"
    elif array.ndim == 3 and array.shape[0] == 3:
        way = "give array.transpose(1, 2, 0)"
    raise ValueError(f"{needed}, found the shape {array.shape}: {way}")
