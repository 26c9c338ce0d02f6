"""The lattice's share of a map, against a transform written out and against the mean of its tiles."""

import math

import numpy as np
import pytest
import torch

from bcos_vit import create_model, explain
from bcos_vit.metrics import Batch, Lattice, LatticeShare, lattice_period, lattice_share, white_noise_share
from toys import VITC, images_for, random_images, toy

SIZES = [(16, 16, 4), (12, 20, 4), (12, 12, 3), (10, 15, 5), (8, 8, 8), (9, 4, 1)]


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def matrix(size):
    """The discrete Fourier transform of one axis."""
    return np.exp(-2j * np.pi * np.outer(np.arange(size), np.arange(size)) / size)


def written_out(image, periods):
    """The definition: magnitudes at j / s and k / s cycles per pixel, found among all frequencies."""
    height, width = image.shape
    energy = np.abs(matrix(height) @ (image - image.mean()) @ matrix(width).T) ** 2
    on = 0.0
    for u in range(height):
        for v in range(width):
            near = [
                [abs(u / height - j / s) + abs(v / width - k / s) for j in range(s) for k in range(s)] for s in periods
            ]
            if (u, v) != (0, 0) and min(min(distances) for distances in near) < 1e-9:
                on += energy[u, v]
    return on / energy.sum()


def explained_by_tiles(image, period):
    """The part of the variance that the mean of all tiles explains."""
    height, width = image.shape
    tiles = image.reshape(height // period, period, width // period, period)
    return tiles.mean((0, 2)).var() / image.var()


@pytest.mark.parametrize(("height", "width", "period"), SIZES)
def test_it_is_the_definition_and_what_the_mean_tile_explains(height, width, period):
    maps = drawn(2, height, width) + 3 * drawn(period, period, seed=1).repeat(height // period, width // period) + 7
    found = lattice_share(maps, period)
    assert found.shape == (2,)
    assert found.dtype == torch.float64
    for share, image in zip(found.tolist(), maps.numpy(), strict=True):
        assert share == pytest.approx(written_out(image, [period]), abs=1e-12)
        assert share == pytest.approx(explained_by_tiles(image, period), abs=1e-12)


@pytest.mark.parametrize(("periods", "same"), [((2, 4, 8), 8), ([8], 8), ((4, 1, 2), 4)])
def test_lattices_that_hold_each_other_are_the_largest(periods, same):
    maps = drawn(3, 16, 24)
    assert torch.equal(lattice_share(maps, periods), lattice_share(maps, same))
    assert white_noise_share(16, 24, iter(periods)) == white_noise_share(16, 24, same)


def test_lattices_of_other_periods_are_united():
    maps = drawn(2, 12, 12)
    expected = [written_out(image, [4, 6]) for image in maps.numpy()]
    assert lattice_share(maps, (4, 6)).tolist() == pytest.approx(expected, abs=1e-12)
    assert white_noise_share(12, 12, (4, 6)) == (16 + 36 - 4 - 1) / 143  # they share the lattice of 2


def test_extremes():
    tile = drawn(4, 4).repeat(4, 4)
    assert float(lattice_share(tile, 4)) == pytest.approx(1, abs=1e-12)
    assert float(lattice_share(tile, 2)) < 0.5
    rows = torch.arange(16, dtype=torch.float64)
    wave = torch.cos(2 * math.pi * 3 * rows / 16).expand(16, 16)  # 3 periods in 16 pixels: no multiple of 1 / 4
    assert float(lattice_share(wave, 4)) == pytest.approx(0, abs=1e-12)
    assert float(lattice_share(tile, 1)) == white_noise_share(16, 16, 1) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e30])
def test_a_constant_map_has_none(dtype, value):
    assert float(lattice_share(torch.full((1, 16, 16), value, dtype=dtype), 4)) == 0
    assert float(lattice_share(torch.full((1, 1), value, dtype=dtype), 1)) == 0


@pytest.mark.parametrize("factor", [-1.0, 1e-30, 1e30])
def test_neither_scale_nor_mean_matter(factor):
    maps = drawn(3, 16, 16).float()
    torch.testing.assert_close(lattice_share(factor * (maps + 2), 4), lattice_share(maps, 4), rtol=1e-4, atol=0)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_map_that_is_no_number_has_a_share_that_is_none(wrong):
    maps = drawn(3, 8, 8)
    maps[1, 2, 3] = wrong
    assert lattice_share(maps, 4).isnan().tolist() == [False, True, False]


def test_leading_axes_are_kept_and_low_precision_is_computed_in_float32():
    maps = drawn(2, 3, 8, 8)
    assert torch.equal(lattice_share(maps, 2)[1, 2], lattice_share(maps[1, 2], 2))
    rough = maps.bfloat16()
    assert torch.equal(lattice_share(rough, 2), lattice_share(rough.float(), 2))


def test_white_noise_has_on_average_its_part_of_the_frequencies():
    assert round(white_noise_share(224, 224, 16), 4) == 0.0051
    assert round(white_noise_share(64, 64, 16), 3) == 0.062
    shares = lattice_share(drawn(2000, 8, 12), 4)
    error = shares.std() / math.sqrt(2000)
    assert abs(shares.mean() - white_noise_share(8, 12, 4)) < 3 * error


@pytest.mark.parametrize(
    ("maps", "strides", "sentence"),
    [
        (torch.ones(1, 10, 12), 4, "a period of 4 pixels does not divide a map of 10 x 12: crop the map to multiples"),
        (torch.ones(1, 12, 10), (2, 4), "a period of 4 pixels does not divide a map of 12 x 10"),
        (torch.ones(8, 8), 0, "strides must be whole numbers of at least 1 pixel, found 0"),
        (torch.ones(8, 8), (2, 2.0), "at least 1 pixel, found 2.0"),
        (torch.ones(8, 8), True, "at least 1 pixel, found True"),
        (torch.ones(8, 8), (), "strides must name at least one period in pixels, found none"),
        (torch.ones(8), 2, r"maps must have the shape \(..., H, W\) with at least one pixel, found \(8,\)"),
        (torch.ones(2, 0, 8), 2, r"with at least one pixel, found \(2, 0, 8\)"),
        (torch.ones(8, 8).long(), 2, "maps must be a tensor of floating-point numbers, found torch.int64"),
        (np.ones((8, 8)), 2, "found ndarray: convert with torch.as_tensor"),
    ],
)
def test_what_it_cannot_take_is_answered_by_a_sentence(maps, strides, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        lattice_share(maps, strides)


def test_white_noise_needs_a_size():
    with pytest.raises(ValueError, match="width must be a whole number of at least 1 pixel, found 0"):
        white_noise_share(8, 0, 2)


# --- of models ---


@pytest.mark.parametrize(
    ("name", "period"), [(VITC, 16), ("bcos_simple_vit_ti_patch16_224", 16), ("bcos_vit_digits", 2)]
)
def test_the_period_of_a_model_is_its_patch(name, period):
    assert lattice_period(create_model(name)) == period


def test_a_strided_stem_and_patches_show_on_their_lattice():
    for name in (VITC, "bcos_simple_vit_ti_patch16_224"):
        model = toy(name, image_size=64, patch_size=16)
        maps = explain(model, random_images(2, 64)).contributions
        assert lattice_share(maps, lattice_period(model)).min() > 1.5 * white_noise_share(64, 64, 16)


def test_the_group_is_the_mean_over_the_maps_beside_white_noise():
    model = toy("bcos_vit_digits")
    group = Lattice(model)
    shares = []
    for images in images_for(model, 8).split((3, 4, 1)):
        group.update(Batch(model, images, torch.zeros(len(images), dtype=torch.long)))
        shares += lattice_share(explain(model, images).contributions, 2).tolist()
    assert group.compute() == {
        "lattice_share": pytest.approx(np.mean(shares), rel=1e-6),
        "standard_error": pytest.approx(np.std(shares, ddof=1) / math.sqrt(8), rel=1e-5),
        "white_noise_share": pytest.approx(3 / 63, rel=1e-6),
        "lattice_share_of_noise": pytest.approx(np.mean(shares) * 21, rel=1e-6),
    }


def test_rows_say_it_in_words_and_why_a_conventional_model_has_none():
    rows = Lattice(toy("bcos_vit_digits")).rows({"lattice_share": 0.51234, "white_noise_share": 0.00508})
    assert rows == {"lattice share of maps, mean": "51.23 %", "lattice share of white noise": "0.51 %"}
    model = toy("standard_vit_digits")
    group = Lattice(model)
    group.update(Batch(model, images_for(model), torch.zeros(3, dtype=torch.long)))
    assert group.compute() == {}
    assert group.rows({}) == {"lattice share of maps": "none: a conventional model has no linear map"}


def test_maps_of_several_sizes_have_their_own_white_noise():
    metric = LatticeShare((2, 4))
    metric.update(drawn(3, 8, 8))
    metric.update(drawn(1, 2, 16, 8))
    found = metric.compute()
    assert float(found["chance"]) == pytest.approx((3 * 15 / 63 + 2 * 15 / 127) / 5, abs=1e-12)
    assert found["count"] == 5
