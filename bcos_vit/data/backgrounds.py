"""Crops of real photos that ship with scikit-image and scikit-learn: places where a drawn shape can stand."""

from __future__ import annotations

import functools
import warnings

import numpy as np
from numpy.random import Generator
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images

PHOTOS = ("astronaut", "brick", "camera", "chelsea", "coffee", "grass", "gravel", "motorcycle", "rocket")
"""Of scikit-image, bundled with it; two of scikit-learn come in addition."""
LICENCE = (
    "drawings on photos bundled with scikit-image (public domain or CC0; the motorcycle of the Middlebury 2014 stereo "
    "benchmark, N. Nesic et al.) and with scikit-learn (china.jpg by danielbuechele, flower.jpg by vultilion: CC BY)"
)
REGIONS = {"train": (0.0, 0.6), "val": (0.6, 0.8), "test": (0.8, 1.0)}
"""Which columns of every photo the parts have, as fractions of its width: no pixel is in two of them."""


@functools.cache
def regions(split: str) -> tuple[Image.Image, ...]:
    """What one part of the data has of every photo, in RGB."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notice about the file of disparities, which is not used
        loaded = [data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)() for name in PHOTOS]
    photos = [Image.fromarray(np.asarray(photo)).convert("RGB") for photo in [*loaded, *load_sample_images().images]]
    start, end = REGIONS[split]
    columns = [(round(start * photo.width), round(end * photo.width)) for photo in photos]
    return tuple(
        photo.crop((left, 0, right, photo.height)) for photo, (left, right) in zip(photos, columns, strict=True)
    )


def background(split: str, side: int, draw: Generator) -> Image.Image:
    """A random square of one of the photos, once or up to 2.5 times reduced, flipped or not: RGB, ``side`` wide."""
    photos = regions(split)
    photo = photos[draw.integers(len(photos))]
    cut = draw.uniform(min(side, *photo.size), min(2.5 * side, *photo.size))
    left, top = (draw.uniform(0, length - cut) for length in photo.size)
    crop = photo.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + cut, top + cut))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw.random() < 0.5 else crop
