"""Drawn shapes on real photos, whose masks are known: a benchmark on which an explanation can be right or wrong."""

from __future__ import annotations

import colorsys
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import Dataset

from bcos_vit.data.backgrounds import LICENCE, background
from bcos_vit.data.drawing import OUTLINES, coverage, stripes

Split = Literal["train", "val", "test"]
LENGTHS = {"train": 1600, "val": 500, "test": 1000}
SMALLEST, LARGEST = 0.19, 0.33
"""Radius of the circle around a shape, as a fraction of the side of an image of one shape."""
CANVAS = 1.5
"""Side of a canvas, in sides of an image of one shape."""
MOST_SHAPES = 3
NOISE = 0.02
Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """An image, what is on it, and where.

    Attributes
    ----------
    image
        (3, H, W) RGB in [0, 1].
    background
        (3, H, W), the same image without its shapes: equal to it outside of the masks.
    labels
        (n,) class numbers, all different.
    masks
        (n, H, W) bool: the pixels that a shape covers, wholly or in part. No two shapes share one.
    """

    image: Tensor
    background: Tensor
    labels: Tensor
    masks: Tensor


class Shapes(Dataset[tuple[Tensor, Any]]):
    """Ten classes of shapes, drawn at random on crops of real photos, with exact masks.

    An item is ((3, H, W) in [0, 1], class number): one shape, wholly inside, at any place and angle, in vivid stripes.
    Background, clutter, place and colours are drawn without regard to the class. The parts have different regions of
    the photos. Everything follows from the seed, the part, the epoch and the index alone.

    To learn from, every epoch is drawn anew (:meth:`of_epoch`). Its targets (K,) are 1 for the classes that are there,
    0 for all others. A tenth of the images has no shape. The first epochs have shapes of one colour on plain
    backgrounds; later, every second epoch is of canvases with up to three shapes, 1.5 times as wide.

    >>> part = Shapes("val")
    >>> image, label = part[3]
    >>> image.shape, part.class_names[label]
    (torch.Size([3, 32, 32]), 'star')
    >>> scene = part.scene(3)
    >>> torch.equal(scene.image, image), scene.masks.shape
    (True, torch.Size([1, 32, 32]))

    Parameters
    ----------
    split
        ``"train"``, ``"val"`` or ``"test"``.
    transform
        Applied to the image of every item.
    seed
        Of all that is drawn.
    side
        Of an image, in pixels: 32, or more for pictures.
    plain_epochs
        So many epochs of training have shapes of one colour on plain backgrounds.
    canvases_from
        From this epoch on, counted from 0, every second one is of canvases.

    Raises
    ------
    ValueError
        For another split, or a number out of range.
    """

    class_names = tuple(OUTLINES)
    licence = LICENCE

    def __init__(
        self,
        split: Split,
        transform: Callable[[Tensor], Tensor] | None = None,
        *,
        seed: int = 0,
        side: int = 32,
        plain_epochs: int = 0,
        canvases_from: int | None = None,
    ) -> None:
        if split not in LENGTHS:
            raise ValueError(f"split must be train, val or test, found {split!r}")
        counts = [("seed", seed, 0), ("side", side, 16), ("plain_epochs", plain_epochs, 0)]
        for name, found, least in [*counts, ("canvases_from", 0 if canvases_from is None else canvases_from, 0)]:
            if isinstance(found, bool) or not isinstance(found, int) or found < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, found {found!r}")
        self.split = split
        self.transform = transform
        self.seed = seed
        self.side = side
        self.plain_epochs = plain_epochs
        self.canvases_from = canvases_from
        self.labels = [index % len(self.class_names) for index in range(LENGTHS[split])]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transformed(self.scene(index).image), self.labels[index]

    def scene(self, index: int) -> Scene:
        """What the image of that index shows, and where."""
        return self._paint(self.side, [self.labels[index]], self._draw(0, index))

    def canvas(self, index: int, shapes: int | None = None) -> Scene:
        """A canvas 1.5 times as wide as an image, with this many shapes of different classes, or, with None, 0 to 3."""
        if shapes is not None and (isinstance(shapes, bool) or shapes not in range(MOST_SHAPES + 1)):
            raise ValueError(f"a canvas has 0 to {MOST_SHAPES} shapes, found {shapes!r}")
        draw = self._draw(1, index)
        count = int(draw.integers(MOST_SHAPES + 1)) if shapes is None else shapes
        return self._paint(round(CANVAS * self.side), self._different(count, draw), draw)

    def of_epoch(self, epoch: int) -> Dataset[tuple[Tensor, Tensor]]:
        """What is learnt from in an epoch, counted from 0: items are ((3, H, W), targets (K,))."""
        return _Epoch(self, epoch)

    def learnt_from(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """An item of :meth:`of_epoch`."""
        draw = self._draw(2, epoch, index)
        if self.canvases_from is not None and epoch >= self.canvases_from and (epoch - self.canvases_from) % 2 == 0:
            count, side = int(draw.integers(MOST_SHAPES + 1)), round(CANVAS * self.side)
        else:
            count, side = int(draw.random() < 0.9), self.side
        scene = self._paint(side, self._different(count, draw), draw, plain=epoch < self.plain_epochs)
        targets = torch.zeros(len(self.class_names))
        targets[scene.labels] = 1
        return self._transformed(scene.image), targets

    def _draw(self, *numbers: int) -> Generator:
        return np.random.default_rng([self.seed, list(LENGTHS).index(self.split), *numbers])

    def _different(self, count: int, draw: Generator) -> list[int]:
        """So many different class numbers."""
        found: list[int] = draw.permutation(len(self.class_names))[:count].tolist()
        return found

    def _transformed(self, image: Tensor) -> Tensor:
        return image if self.transform is None else self.transform(image)

    def _paint(self, side: int, labels: Sequence[int], draw: Generator, *, plain: bool = False) -> Scene:
        behind = _backdrop(self.split, side, draw, plain=plain)
        noise = draw.normal(0, NOISE, behind.shape).astype(np.float32)
        image, masks = behind, []
        for label, (x, y, radius) in zip(labels, self._places(side, len(labels), draw), strict=True):
            angle = draw.uniform(0, 2 * np.pi)
            covered = coverage(self.class_names[label], side, x, y, radius, angle)[..., None]
            image = covered * _fill(self.split, side, radius, draw, plain=plain) + (1 - covered) * image
            masks.append(covered[..., 0] > 0)
        seen, without = (_noisy(pixels, noise) for pixels in (image, behind))
        where = torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, side, side, dtype=torch.bool)
        return Scene(seen, without, torch.tensor(labels, dtype=torch.long), where)

    def _places(self, side: int, count: int, draw: Generator) -> list[tuple[float, float, float]]:
        """Centres and radii of circles wholly inside that do not touch; all are placed anew where one finds no room."""
        places: list[tuple[float, float, float]] = []
        for attempt in itertools.count(1):
            if len(places) == count:
                return places
            if attempt % (20 * count) == 0:
                places.clear()
            radius = draw.uniform(SMALLEST, LARGEST) * self.side
            x, y = draw.uniform(radius, side - radius, 2)
            if all(np.hypot(x - u, y - v) > radius + r + 2 for u, v, r in places):
                places.append((x, y, radius))
        raise AssertionError("counting ends when all are placed")


@dataclass(frozen=True)
class _Epoch(Dataset[tuple[Tensor, Tensor]]):
    shapes: Shapes
    number: int

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.shapes.learnt_from(self.number, index)


def _noisy(pixels: Pixels, noise: Pixels) -> Tensor:
    """(H, W, 3) -> (3, H, W) in [0, 1]."""
    return torch.from_numpy((pixels + noise).clip(0, 1)).permute(2, 0, 1).contiguous()


def _vivid(draw: Generator) -> tuple[float, float, float]:
    """Hue, saturation and value of a vivid colour."""
    return draw.random(), draw.uniform(0.6, 1), draw.uniform(0.65, 1)


def _brush(draw: Generator) -> tuple[int, ...]:
    """A vivid colour in RGB, 0 to 255."""
    return tuple(int(255 * value) for value in colorsys.hsv_to_rgb(*_vivid(draw)))


def _backdrop(split: str, side: int, draw: Generator, *, plain: bool) -> Pixels:
    """(side, side, 3): a photo, half desaturated, with two lines and two blobs of vivid colours; or its mean colour."""
    photo = background(split, side, draw)
    if plain:
        return np.broadcast_to(_half_grey(photo).mean((0, 1)), (side, side, 3)).astype(np.float32)
    cluttered = Image.fromarray((255 * _half_grey(photo)).astype(np.uint8))
    brush = ImageDraw.Draw(cluttered)
    for _ in range(2):
        colour = _brush(draw)
        brush.line(draw.uniform(0, side, 4).tolist(), fill=colour, width=max(1, side // 32))
        x, y = draw.uniform(0, side, 2)
        radius = draw.uniform(0.03, 0.07) * side
        brush.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_brush(draw))
    return np.asarray(cluttered, np.float32) / np.float32(255)


def _half_grey(photo: Image.Image) -> Pixels:
    colours = np.asarray(photo, np.float32) / 255
    return (colours + colours.mean(2, keepdims=True)) / 2


def _fill(split: str, side: int, radius: float, draw: Generator, *, plain: bool) -> Pixels:
    """What a shape is painted with, (side, side, 3): light and dark stripes, shaded by a photo; or one vivid colour."""
    if plain:
        return np.broadcast_to(np.asarray(colorsys.hsv_to_rgb(*_vivid(draw)), np.float32), (side, side, 3))
    pattern = stripes(side, radius * draw.uniform(0.4, 1.2), draw.uniform(0, np.pi), draw.uniform(0, 2 * np.pi))
    hue, saturation, value = _vivid(draw)
    light = colorsys.hsv_to_rgb(hue, saturation, value)
    dark = colorsys.hsv_to_rgb((hue + draw.uniform(-0.15, 0.15)) % 1, saturation, 0.5 * value)
    colours = np.where(pattern[..., None], light, dark).astype(np.float32)
    shade = np.asarray(background(split, side, draw).convert("L"), np.float32)[..., None] / np.float32(255)
    return colours * (np.float32(0.75) + np.float32(0.25) * shade)
