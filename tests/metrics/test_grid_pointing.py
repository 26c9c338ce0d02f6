"""The grid pointing game: against the published code's figures, pixel by pixel, and the choice of its images."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bcos_vit.metrics import confident_grids, grid_pointing, join_tiles

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "bcos.npz")


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def pixel_by_pixel(maps, n, smooth):
    """The scores of one grid: (n * n, H, W) -> (n * n)."""
    (count, height, width), reach = maps.shape, smooth // 2
    padded = np.pad(maps, ((0, 0), (reach, reach), (reach, reach)))
    own, total = np.zeros(count), np.zeros(count)
    for k in range(count):
        for y in range(height):
            for x in range(width):
                value = max(padded[k, y : y + smooth, x : x + smooth].mean(), 0.0)
                total[k] += value
                if (y // (height // n), x // (width // n)) == (k % n, k // n):
                    own[k] += value
    return own / total


@pytest.mark.parametrize("n", [2, 3])
def test_scores_and_grids_are_the_published_ones(n):
    golden = {name: GOLDEN[f"grid_pointing_{n}x{n}/{name}"] for name in ("attributions", "tiles", "multi_image")}
    maps = torch.from_numpy(golden["attributions"])[:, 0][None]
    for published, smooth in ((0, 1), (3, 3)):
        expected = GOLDEN[f"grid_pointing_{n}x{n}/localisation_scores_smooth{published}"]
        np.testing.assert_allclose(grid_pointing(maps, smooth)[0], expected, rtol=0, atol=1e-15)
    joined = join_tiles(torch.from_numpy(golden["tiles"])[None])
    np.testing.assert_array_equal(joined[0], golden["multi_image"])


@pytest.mark.parametrize(("n", "smooth"), [(2, 1), (2, 5), (3, 3)])
def test_scores_are_those_of_a_count_over_pixels(n, smooth):
    maps = drawn(2, n * n, 4 * n, 3 * n)
    expected = [pixel_by_pixel(grid, n, smooth) for grid in maps.numpy()]
    np.testing.assert_allclose(grid_pointing(maps, smooth), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("n", [2, 3])
def test_extremes_of_grid_pointing(n):
    uniform = torch.ones(1, n * n, 2 * n, 4 * n)
    torch.testing.assert_close(grid_pointing(uniform), torch.full((1, n * n), 1 / n**2))
    chosen = torch.eye(n * n)[..., None, None, None].expand(-1, -1, 1, 2, 4)  # (map, tile, 1, h, w)
    oracle = join_tiles(chosen)[:, 0]
    assert grid_pointing(oracle[None] - 0.5).tolist() == [[1] * n**2]
    assert grid_pointing(oracle.roll(1, 0)[None]).tolist() == [[0] * n**2]
    assert grid_pointing(-uniform).tolist() == [[0] * n**2]
    assert grid_pointing(uniform * torch.nan).isnan().all()


@pytest.mark.parametrize(
    ("shape", "smooth", "sentence"),
    [
        ((1, 5, 8, 8), 1, r"a grid has n \* n tiles and maps, n at least 2 \(4, 9, 16, ...\), found 5"),
        ((3, 1, 8, 8), 1, "found 1"),
        ((4, 8, 8), 1, r"maps must have the shape \(B, n \* n, H, W\) with at least one pixel, found \(4, 8, 8\)"),
        ((1, 4, 8, 7), 1, "maps of 8 x 7 do not divide into 2 x 2 tiles"),
        ((1, 4, 8, 8), 2, "smooth must be an odd number of pixels, 1 for no smoothing, found 2"),
        ((1, 4, 8, 8), 0, "found 0"),
    ],
)
def test_maps_that_do_not_fit_are_answered_by_a_sentence(shape, smooth, sentence):
    with pytest.raises(ValueError, match=sentence):
        grid_pointing(torch.ones(shape), smooth)


@pytest.mark.parametrize(
    ("shape", "sentence"), [((1, 3, 3, 4, 4), "found 3"), ((4, 3, 4, 4), r"\(B, n \* n, C, h, w\)")]
)
def test_tiles_that_do_not_fit_are_answered_by_a_sentence(shape, sentence):
    with pytest.raises(ValueError, match=sentence):
        join_tiles(torch.ones(shape))


# --- the choice of images ---


def scores(count=400, classes=7, seed=0):
    """Probabilities and labels; about half are right."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    logits = random.standard_normal((count, classes)) + 1.5 * np.eye(classes)[labels]
    return torch.from_numpy(1 / (1 + np.exp(-logits))), torch.from_numpy(labels)


def as_published(probabilities, labels, n, seed):
    """The list of images of the published code: draws while more than n * n classes have an image left."""
    right = [i for i in range(len(labels)) if probabilities[i].argmax() == labels[i]]
    per_class = [sorted((i for i in right if labels[i] == k), key=lambda i: -max(probabilities[i])) for k in range(7)]
    per_class = [[i for i in images if max(probabilities[i]) > 0.5] for images in per_class]
    random, found = np.random.RandomState(seed), []
    while sum(map(bool, per_class)) > n * n:
        open_classes = np.array([k for k, images in enumerate(per_class) if images])
        found.append([per_class[k].pop(0) for k in random.choice(open_classes, size=n * n, replace=False)])
    return found


@pytest.mark.parametrize("seed", [42, 0])
def test_images_are_those_that_the_published_draw_names(seed):
    probabilities, labels = scores()
    expected = as_published(probabilities.numpy(), labels.numpy(), 2, seed)
    assert len(expected) > 10
    found = confident_grids(probabilities, labels, n=2, grids=len(expected), seed=seed)
    assert found.tolist() == expected


def test_images_are_right_sure_distinct_in_class_and_used_once():
    probabilities, labels = scores()
    found = confident_grids(probabilities, labels, n=2, grids=30, threshold=0.6)
    assert found.shape == (30, 4)
    sure, predicted = probabilities.max(1)
    assert torch.equal(predicted[found], labels[found])
    assert sure[found].min() > 0.6
    assert all(len(set(row)) == 4 for row in labels[found].tolist())
    assert len(set(found.flatten().tolist())) == 120
    for k in range(7):
        chosen = sure[found.flatten()][labels[found.flatten()] == k]
        assert torch.equal(chosen, chosen.sort(descending=True).values)
    assert not torch.equal(found, confident_grids(probabilities, labels, n=2, grids=30, threshold=0.6, seed=1))


def test_exactly_n_by_n_classes_make_grids():
    labels = torch.arange(8) % 4
    found = confident_grids(0.9 * torch.eye(4)[labels], labels, n=2, grids=2)
    assert [sorted(row) for row in found.tolist()] == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"grids": 1000},
            r"of a probability above 0.5 make \d+ grids of 2 x 2 distinct classes, not 1000: ask for fewer",
        ),
        ({"n": 3}, "make 0 grids of 3 x 3 distinct classes, not 5"),
        ({"n": 1}, "n must be a whole number of at least 2, found 1"),
        ({"grids": 0}, "grids must be a whole number of at least 1, found 0"),
        ({"threshold": 1.0}, r"threshold must be a probability in \[0, 1\), found 1.0"),
        ({"labels": torch.zeros(3)}, r"probabilities must be \(N, K\) and labels \(N,\), found \(400, 7\) and \(3,\)"),
    ],
)
def test_a_choice_that_cannot_be_made_is_answered_by_a_sentence(changed, sentence):
    probabilities, labels = scores()
    with pytest.raises(ValueError, match=sentence):
        confident_grids(**{"probabilities": probabilities, "labels": labels, "n": 2, "grids": 5, **changed})
