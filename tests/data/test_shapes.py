"""Drawn shapes: what is known of them is exact, and nothing but the shape tells its class."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.utils.data import DataLoader

from bcos_vit.data import DataModule, Shapes
from bcos_vit.data.backgrounds import REGIONS
from bcos_vit.data.drawing import OUTLINES, coverage
from bcos_vit.models.cards import SHAPES

AREAS = {"disk": np.pi, "square": 2, "ring": np.pi * (1 - 0.58**2), "triangle": 3 * 3**0.5 / 4}
"""Of those in a unit circle."""


def test_classes_are_those_of_the_zoo() -> None:
    assert Shapes.class_names == SHAPES


@pytest.mark.parametrize("name", OUTLINES)
def test_a_shape_covers_its_area_within_its_circle(name: str) -> None:
    covered = coverage(name, 64, 31.3, 30.2, 20, 0.7)
    assert (covered.min(), covered.max()) == (0, 1)
    rows, columns = np.mgrid[:64, :64] + 0.5
    assert not covered[np.hypot(columns - 31.3, rows - 30.2) > 21].any()
    if name in AREAS:
        assert covered.sum() == pytest.approx(400 * AREAS[name], rel=0.04)
    assert coverage(name, 64, 31.3, 30.2, 20, 2.5).sum() == pytest.approx(covered.sum(), rel=0.04)  # turned


def test_classes_look_different() -> None:
    drawn = [coverage(name, 64, 32, 32, 20, angle) > 0.5 for name in OUTLINES for angle in (0, 1, 2)]
    for i, one in enumerate(drawn):
        for k, other in enumerate(drawn):
            if i // 3 != k // 3:
                assert (one ^ other).sum() > 0.1 * (one | other).sum()


def test_an_item_follows_from_seed_part_and_index_alone() -> None:
    part = Shapes("val", seed=3)
    images = [part[index][0] for index in (7, 2, 7)]
    assert torch.equal(images[0], images[2])
    assert torch.equal(Shapes("val", seed=3)[7][0], images[0])
    others = (images[1], Shapes("val", seed=4)[7][0], Shapes("test", seed=3)[7][0], Shapes("train", seed=3)[7][0])
    assert all(not torch.equal(other, images[0]) for other in others)


def test_items_are_images_and_class_numbers() -> None:
    part = Shapes("test")
    image, label = part[13]
    assert (image.shape, image.dtype, label) == ((3, 32, 32), torch.float32, 3)
    assert torch.equal(image, image.clamp(0, 1))
    assert len(part) == 1000
    assert np.bincount(part.labels).tolist() == [100] * 10
    assert Shapes("test", transform=torch.neg)[13][0].max() <= 0
    assert Shapes("test", side=64)[13][0].shape == (3, 64, 64)


def test_outside_of_its_mask_an_image_is_its_background() -> None:
    part, areas = Shapes("val"), []
    for index in range(100):
        scene = part.scene(index)
        mask = scene.masks[0]
        changed = (scene.image != scene.background).any(0)
        assert not (changed & ~mask).any()
        assert (changed & mask).sum() > 0.8 * mask.sum()
        areas.append(float(mask.float().mean()))
    assert 0.1 < np.mean(areas) < 0.2


def test_canvases_have_shapes_of_different_classes_that_share_no_pixel() -> None:
    part, counts = Shapes("val"), []
    for index in range(60):
        scene = part.canvas(index)
        counts.append(len(scene.labels))
        assert scene.image.shape == (3, 48, 48)
        assert len(scene.masks) == len(set(scene.labels.tolist())) == len(scene.labels)
        assert scene.masks.sum(0).max() <= 1
        assert not ((scene.image != scene.background).any(0) & ~scene.masks.any(0)).any()
    assert set(counts) == {0, 1, 2, 3}
    assert all(len(part.canvas(index, shapes=3).masks) == 3 for index in range(100))  # there is room for all
    with pytest.raises(ValueError, match="a canvas has 0 to 3 shapes, found 4"):
        part.canvas(0, shapes=4)


def test_what_is_learnt_from_is_drawn_anew_in_every_epoch() -> None:
    part = Shapes("train", plain_epochs=1, canvases_from=2)
    epochs: list[Any] = [part.of_epoch(number) for number in range(4)]
    assert [epoch[5][0].shape[-1] for epoch in epochs] == [32, 32, 48, 32]
    assert not torch.equal(epochs[1][5][0], epochs[3][5][0])
    assert torch.equal(part.of_epoch(3)[5][0], epochs[3][5][0])
    targets = torch.stack([epochs[1][index][1] for index in range(200)])
    assert targets.shape == (200, 10)
    assert set(targets.unique().tolist()) == {0, 1}
    assert 0.03 < float((targets.sum(1) == 0).float().mean()) < 0.17  # a tenth has no shape
    assert targets.sum(1).max() == 1
    assert torch.stack([epochs[2][index][1] for index in range(50)]).sum(1).max() == 3
    empty = next(image for image, target in map(epochs[0].__getitem__, range(200)) if not target.any())
    assert empty.std((1, 2)).max() < 0.03  # one colour, and noise


def test_parts_have_different_pixels_of_every_photo() -> None:
    bounds = sorted(REGIONS.values())
    assert all(end == start for (_, end), (start, _) in pairwise(bounds))


@pytest.mark.parametrize("seen", ["background", "place"])
def test_only_the_shape_tells_the_class(seen: str) -> None:
    """A classifier that gets everything else is right as often as by chance; one that gets the masks is not."""
    part = Shapes("train")
    scenes = [part.scene(index) for index in range(600)]
    labels = np.array(part.labels[:600])

    def accuracy(features: list[Tensor]) -> float:
        x = torch.stack(features).flatten(1).double().numpy()
        x = (x - x.mean(0)) / (x.std(0) + 1e-9)
        model = LogisticRegression(C=0.1, max_iter=1000).fit(x[:400], labels[:400])
        return float(model.score(x[400:], labels[400:]))

    def place(mask: Tensor) -> Tensor:
        rows, columns = mask.nonzero().double().unbind(1)
        return torch.stack([rows.min() + rows.max(), columns.min() + columns.max()])

    if seen == "background":
        found = accuracy([torch.nn.functional.avg_pool2d(scene.background, 4) for scene in scenes])
        assert accuracy([scene.masks[0].sum()[None].double() for scene in scenes]) > 0.15  # so the test can fail
    else:
        found = accuracy([place(scene.masks[0]) for scene in scenes])
    assert found < 0.1 + 3 * (0.09 / 200) ** 0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"split": "all"}, "split must be train, val or test, found 'all'"),
        ({"seed": -1}, "seed must be a whole number of at least 0, found -1"),
        ({"side": 8}, "side must be a whole number of at least 16, found 8"),
        ({"plain_epochs": 1.5}, "plain_epochs must be a whole number of at least 0, found 1.5"),
        ({"canvases_from": True}, "canvases_from must be a whole number of at least 0, found True"),
    ],
)
def test_impossible_parts_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Shapes(**{"split": "val"} | given)


@pytest.mark.parametrize("corrupt", ["raise", "skip"])
def test_the_data_module_draws_the_images_of_the_epoch(corrupt: str) -> None:
    def parts(split: Any, transform: Any) -> Shapes:
        return Shapes(split, transform, canvases_from=0)

    data = DataModule(parts, batch_size=4, corrupt=corrupt, train_images=8)
    loader: DataLoader[Any] = data.train_dataloader()
    images, targets = next(iter(loader))
    assert (len(loader), images.shape, targets.shape) == (2, (4, 3, 48, 48), (4, 10))
    data.check_parts(("train", "val", "test"))
