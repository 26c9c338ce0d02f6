"""Energy in masks and on borders, pixel by pixel in float64."""

import math

import numpy as np
import pytest
import torch

from bcos_vit.metrics import border_energy, energy_in_mask


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def pixel_by_pixel(image, chosen, worth):
    """The part of all pixels' worth that those at ``chosen(y, x)`` have."""
    worths = {(y, x): worth(value) for (y, x), value in np.ndenumerate(image)}
    return math.fsum(w for place, w in worths.items() if chosen(*place)) / math.fsum(worths.values())


MASKS = drawn(4, 9, 7, seed=1) > 0.5


def test_energy_in_mask_is_that_of_the_positive_pixels():
    maps = drawn(4, 9, 7)
    expected = [
        pixel_by_pixel(image, lambda y, x, mask=mask: mask[y, x], lambda value: max(value, 0.0))
        for image, mask in zip(maps.numpy(), MASKS.numpy(), strict=True)
    ]
    found = energy_in_mask(maps, MASKS)
    assert found.tolist() == pytest.approx(expected, abs=1e-15)
    assert torch.equal(energy_in_mask(maps.view(2, 2, 9, 7), MASKS.view(2, 2, 9, 7)), found.view(2, 2))


def test_extremes_of_energy_in_mask():
    area = MASKS.double().mean((1, 2))
    torch.testing.assert_close(energy_in_mask(torch.full((4, 9, 7), 3.0).double(), MASKS), area)
    assert energy_in_mask(torch.where(MASKS, drawn(4, 9, 7).abs(), -1.0), MASKS).tolist() == [1] * 4
    assert energy_in_mask(torch.where(MASKS, -1.0, drawn(4, 9, 7).abs()), MASKS).tolist() == [0] * 4
    assert energy_in_mask(-drawn(4, 9, 7).abs(), MASKS).tolist() == [0] * 4
    assert energy_in_mask(torch.full((4, 9, 7), math.nan), MASKS).isnan().all()


@pytest.mark.parametrize(
    ("masks", "sentence"),
    [
        (MASKS[:1], r"every map needs a mask of its size, found \(4, 9, 7\) and \(1, 9, 7\)"),
        (MASKS.float(), "masks must be a boolean tensor, True on the object, found torch.float32: give masks > 0"),
        (MASKS.numpy(), "masks must be a boolean tensor, True on the object, found ndarray"),
        (MASKS & (torch.arange(4) > 1)[:, None, None], "2 masks are empty: leave out images without an object"),
    ],
)
def test_masks_that_do_not_fit_are_answered_by_a_sentence(masks, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        energy_in_mask(drawn(4, 9, 7), masks)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_border_energy_is_that_of_the_outermost_pixels(width):
    maps = drawn(2, 3, 9, 7)

    def outermost(y, x):
        return min(y, x, 8 - y, 6 - x) < width

    expected = [pixel_by_pixel(image, outermost, abs) for image in maps.flatten(0, 1).numpy()]
    assert border_energy(maps, width).flatten().tolist() == pytest.approx(expected, abs=1e-15)
    uniform = 1 - (9 - 2 * width) * (7 - 2 * width) / 63
    assert border_energy(torch.full((9, 7), -2.0).double(), width).item() == pytest.approx(uniform, abs=1e-15)


def test_extremes_of_border_energy():
    inside = torch.zeros(8, 8)
    inside[2:-2, 2:-2] = -1
    assert border_energy(torch.stack([inside, 1 + inside, torch.zeros(8, 8)])).tolist() == [0, 1, 0]
    assert border_energy(torch.full((8, 8), math.nan)).isnan()


@pytest.mark.parametrize("width", [0, 4, -1, 1.0, True])
def test_a_border_leaves_pixels_inside(width):
    sentence = f"width must be a whole number of at least 1 that leaves pixels of 9 x 8, found {width}"
    with pytest.raises(ValueError, match=sentence):
        border_energy(torch.ones(9, 8), width)
