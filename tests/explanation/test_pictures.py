"""The pictures of an explanation: colours and plots."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bcos_vit import Combination, Contrast, TopK, Unit, explain
from bcos_vit.explanation import colour
from bcos_vit.models.vit import ViT
from toys import NAME, VITC, images_for, toy

# --- colours ---


@pytest.mark.parametrize(
    ("target", "lead"), [(None, (3,)), (TopK(2), (3, 2)), ([[1]] * 3, (3, 1)), (Contrast(0, 1), (3,))], ids=repr
)
def test_colour_shapes(model: ViT, images: Tensor, target: Any, lead: tuple[int, ...]) -> None:
    e = explain(model, images, target)
    colours = e.colour()
    assert colours.shape == (*lead, 4, 12, 12)
    assert e[0].colour().shape == (*lead[1:], 4, 12, 12)
    assert float(colours.min()) >= 0
    assert float(colours.max()) <= 1
    assert float(colours[..., 3, :, :].amax()) > 0


@pytest.mark.parametrize("smooth", [0, 1, 5])
def test_colours_of_a_batch_are_those_of_its_images(model: ViT, images: Tensor, smooth: int) -> None:
    e = explain(model, images, TopK(2))
    colours = e.colour(smooth, 95)
    for i in range(3):
        assert torch.equal(e[i].colour(smooth, 95), colours[i])
        assert torch.equal(e[i : i + 1].colour(smooth, 95)[0], colours[i])
        for t in range(2):
            assert torch.equal(e[i].of_target(t).colour(smooth, 95), colours[i, t])


def test_colours_depend_on_what_is_asked(model: ViT, images: Tensor) -> None:
    e = explain(model, images)
    assert not torch.equal(e.colour(3), e.colour(5))
    assert not torch.equal(e.colour(3, 99.5), e.colour(3, 50))
    assert torch.equal(e.colour(0), e.colour(1))  # a box of one pixel
    assert torch.equal(e.colour(), e.colour(1, 99.5))  # the images are small
    assert torch.equal(e.colour(3, 100)[:, 3].amax((1, 2)), torch.ones(3))


def as_published(weights: Tensor, contributions: Tensor, smooth: int, percentile: float) -> Tensor:
    """The definition written out, in torch's own operations: (B, 6, H, W) -> (B, 4, H, W)."""
    positive = (weights / (weights.abs().amax(1, keepdim=True) + 1e-12)).clamp(min=0)
    rgb = positive[:, :3] / (positive[:, :3] + positive[:, 3:] + 1e-12)
    alpha = torch.linalg.vector_norm(weights, dim=1, keepdim=True)
    alpha = torch.where(contributions[:, None] < 0, 1e-12, alpha)
    if smooth:
        alpha = F.avg_pool2d(alpha, smooth, stride=1, padding=smooth // 2)
    opaque = torch.quantile(alpha.flatten(1), percentile / 100, dim=1)
    return torch.cat((rgb, (alpha / opaque[:, None, None, None]).clamp(0, 1)), 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("size", [(12, 12), (7, 20), (1, 3)], ids=str)
@pytest.mark.parametrize("smooth", [0, 1, 3, 15, 41])
@pytest.mark.parametrize("percentile", [1e-3, 50, 99.5, 100])
def test_colours_are_as_published(size: tuple[int, int], smooth: int, percentile: float, dtype: torch.dtype) -> None:
    for scale in (1.0, 1e-6, 1e4):
        weights = scale * torch.randn(3, 6, *size, dtype=dtype)
        contributions = torch.randn(3, *size, dtype=dtype)
        found = colour.render(weights, contributions, smooth, percentile)
        expected = as_published(weights, contributions, smooth, percentile)
        assert float((found - expected).abs().max()) <= 3e-6  # quantiles of older versions of torch round otherwise


@pytest.mark.parametrize("smooth", [0, 15])
def test_colours_of_a_model_are_as_published(smooth: int) -> None:
    model = toy(VITC)
    e = explain(model, images_for(model))
    expected = as_published(e.weights, e.contributions, smooth, 99.5)
    torch.testing.assert_close(e.colour(smooth), expected, rtol=0, atol=1e-6)


def test_a_row_of_zeros_shows_nothing(model: ViT, images: Tensor) -> None:
    e = explain(model, images)
    empty = dataclasses.replace(e, weights=e.weights * 0, contributions=e.contributions * 0)
    assert torch.equal(empty.colour(), torch.zeros(3, 4, 12, 12))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"smooth": 4}, "odd.*found 4"),
        ({"smooth": -1}, "odd.*found -1"),
        ({"percentile": 0}, r"\(0, 100\], found 0"),
        ({"percentile": 100.5}, r"\(0, 100\], found 100.5"),
        ({"percentile": -3}, "found -3"),
        ({"percentile": math.nan}, "found nan"),
    ],
    ids=str,
)
def test_colours_that_cannot_be(model: ViT, images: Tensor, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain(model, images).colour(**arguments)


def test_no_rows_no_colours(model: ViT, images: Tensor) -> None:
    with pytest.raises(ValueError, match="'rollout' has no rows"):
        dataclasses.replace(explain(model, images), weights=None, method="rollout").colour()


# --- plots ---


def cells(figure: Any) -> tuple[int, int, str]:
    """Axes in all, pictures in them, and all words, of a figure that can be drawn."""
    figure.canvas.draw()
    words = [text.get_text() for ax in figure.axes for text in [*ax.texts, ax.title]]
    return len(figure.axes), sum(len(ax.images) for ax in figure.axes), "\n".join(words)


@pytest.mark.parametrize(
    ("target", "rows"),
    [(None, 3), (TopK(2), 6), (TopK(5), 15), (Contrast(0, 1), 3)],
    ids=["batch", "several", "many", "contrast"],
)
def test_plot(model: ViT, images: Tensor, target: Any, rows: int) -> None:
    from matplotlib.figure import Figure

    e = explain(model, images, target)
    figure = e.plot(smooth=3)
    assert isinstance(figure, Figure)
    axes, pictures, words = cells(figure)
    assert axes == 4 * rows + 1  # and one colour bar
    assert pictures == 3 * rows
    for line in ("image", "position", "bias", "logit", "residual"):
        assert words.count(f"\n{line} ") == rows, line
    single = e[0].plot(class_names=["ant", "bee", "cat", "dog", "eel"])
    assert cells(single)[0] == 4 * rows // 3 + 1
    if isinstance(target, Contrast):
        assert words.count("0 rather than 1") == rows
        assert "ant rather than bee" in cells(single)[2]
    else:
        assert all(str(c) in words for c in e.target.flatten().tolist())
        assert ["ant", "bee", "cat", "dog", "eel"][int(e.target.flatten()[0])] in cells(single)[2]


def test_plot_at_a_stage(model: ViT, images: Tensor) -> None:
    """The map of the tokens, and no colours."""
    e = explain(model, images, at="blocks.0")
    axes, pictures, words = cells(e.plot())
    assert (axes, pictures) == (13, 6)
    assert words.count("\ntokens ") == 3
    assert "\nimage " not in words  # whose line this would be
    assert e._repr_png_() is not None


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (Unit("blocks.0", 7, 2), "channel 7 of token 2 at blocks.0"),
        (Unit("pooled", 1), "channel 1 at pooled"),
        (Contrast(1), "mean"),
        (Combination([0, 1, 0, -2, 0]), "combination"),
    ],
    ids=repr,
)
def test_plot_says_what_is_explained(model: ViT, images: Tensor, target: Any, said: str) -> None:
    """A unit is no class and its value no logit; a sum of logits is more than its largest class."""
    e = explain(model, images[:1], target)
    names = ["ant", "bee", "cat", "dog", "eel"]
    words = cells(e.plot())[2]
    named = cells(e.plot(class_names=names))[2]
    for found in (words, named):
        assert said in " ".join(found.split())
    if isinstance(target, Unit):
        assert not any(name in named for name in names)
        assert "\nlogit " not in words


def test_plot_shares_one_scale(model: ViT, images: Tensor) -> None:
    e = explain(model, images)
    maps = [ax.images[0] for ax in e.plot().axes if ax.images and ax.images[0].get_cmap().name == "RdBu_r"]
    assert len(maps) == 3
    assert len({m.get_clim() for m in maps}) == 1
    low, high = maps[0].get_clim()
    assert low == -high
    for m, contributions in zip(maps, e.contributions, strict=True):
        assert np.array_equal(m.get_array(), contributions.numpy())


def test_plot_without_rows(model: ViT, images: Tensor) -> None:
    e = dataclasses.replace(explain(model, images), weights=None, method="rollout")
    assert cells(e.plot())[:2] == (13, 6)
    assert cells(e[0].plot())[:2] == (5, 2)


def test_plot_in_half_precision_and_of_files(tmp_path: Path) -> None:
    model = toy(NAME, dtype=torch.bfloat16)
    explain(model, images_for(model)).plot().savefig(tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").size[0] > 100
