"""Where the cells of pictures lie, how large their pixels are drawn, and what scale their colours have."""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bcos_vit import Explanation, TopK, Unit, explain
from bcos_vit.explanation import colour, layout, plot
from bcos_vit.explanation.page import Page, Picture
from toys import NAME, random_images, toy

LONG = "a very long name, indeed of pneumonoultramicroscopicsilicovolcanoconiosis, " * 3


def explained(size: int | tuple[int, int], count: int = 1, strength: float = 1.0, targets: int = 0) -> Explanation:
    """An explanation of any size without a model, so that drawing is all that takes time."""
    images = random_images(count, size)
    lead = (count, targets) if targets else (count,)
    contributions = strength * torch.randn(*lead, *images.shape[2:], generator=torch.Generator().manual_seed(1))
    weights = torch.randn(*lead, 6, *images.shape[2:], generator=torch.Generator().manual_seed(2))
    logit = contributions.sum((-2, -1))
    return Explanation(images, torch.zeros(lead).long(), logit=logit, contributions=contributions, weights=weights)


def interpolations(figure: Any, dpi: float = 110) -> set[str]:
    figure.savefig(io.BytesIO(), format="png", dpi=dpi)
    return {picture.get_interpolation() for ax in figure.axes for picture in ax.images}


def pictured(figure: Any) -> set[str]:
    """How the pictures of a figure will be interpolated at its own resolution."""
    return {picture.get_interpolation() for ax in figure.axes for picture in ax.images}


def drawn(figure: Any) -> Any:
    """A figure that has been drawn once, so that everything knows its place."""
    figure.draw_without_rendering()
    return figure


def maps(figure: Any) -> list[Any]:
    """The contribution maps of a figure."""
    pictures = [picture for ax in figure.axes for picture in ax.images]
    return [picture for picture in pictures if picture.get_cmap().name == "RdBu_r" and picture.get_array().ndim == 2]


def pixels(figure: Any) -> np.ndarray:
    """(H, W, 3) what a figure looks like, 100 dots an inch, the lowest row first."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return np.asarray(Image.open(buffer).convert("RGB"))[::-1].astype(int)


# --- large pixels ---


@pytest.mark.parametrize(
    ("size", "smooth"), [(1, True), (8, True), (32, True), ((32, 24), True), (64, False), (224, False)]
)
def test_large_pixels_are_interpolated(size: Any, smooth: bool) -> None:
    for draw in (Explanation.plot, lambda e, **style: plot.columns({"": e}, **style)):
        figure = draw(explained(size))
        assert (pictured(figure) == {"bilinear"}) is smooth
        assert ("bilinear" in pictured(figure)) is smooth
        assert pictured(draw(explained(size), exact=True)) == {"nearest"}


def test_what_counts_is_how_large_a_pixel_is_drawn() -> None:
    """One figure for the screen and for print."""
    figure = explained(64).plot()
    assert "bilinear" in interpolations(figure, 200)
    assert "bilinear" not in interpolations(figure, 100)
    small = explained(32).plot()
    assert "bilinear" not in interpolations(small, 60)


def test_tokens_beside_a_photograph_are_interpolated_alone() -> None:
    model = toy(NAME, image_size=96)
    assert "bilinear" not in pictured(explain(model, random_images(1, 96), Unit("blocks.0", 1, 0)).plot())
    figure = explain(model, random_images(1, 96), at="blocks.0").plot()
    image, contributions = (ax.images[0].get_interpolation() for ax in drawn(figure).axes if ax.images)
    assert (image == "bilinear", contributions) == (False, "bilinear")


def test_squares_hold_one_colour_and_centres_keep_it() -> None:
    """The centre of every pixel is as in the exact picture; between centres only the smooth one changes gradually."""
    pictures = {}
    for exact in (False, True):
        figure = drawn(explained(8).plot(exact=exact))
        box = maps(figure)[0].axes.get_window_extent()
        pictures[exact] = pixels(figure)[round(box.y0) : round(box.y1), round(box.x0) : round(box.x1)]
    assert len(np.unique(pictures[True].reshape(-1, 3), axis=0)) <= 64
    assert len(np.unique(pictures[False].reshape(-1, 3), axis=0)) > 200
    side = len(pictures[True]) / 8
    centres = [round(side * (i + 0.5)) for i in range(8)]
    grid = np.ix_(centres, centres)
    assert np.abs(pictures[True][grid] - pictures[False][grid]).max() <= 30


def test_transparent_pixels_leave_no_dark_fringe() -> None:
    page = Page(2, 2)
    Picture(page.axes(0, 0, 2, 2), np.array([[[1.0, 1, 1, 1], [0, 0, 0, 0]]]), exact=False)
    assert pixels(page.figure).min() >= 254


@pytest.mark.parametrize(("size", "box"), [(8, 1), (14, 1), (15, 1), (30, 3), (32, 3), (64, 5), (224, 15), (384, 25)])
def test_colours_are_smoothed_in_proportion(size: int, box: int) -> None:
    assert colour.usual_box(size, size) == colour.usual_box(size, 3000) == colour.usual_box(3000, size) == box
    if size <= 64:
        e = explained((size, 70))
        assert torch.equal(e.colour(), e.colour(box))
        assert torch.equal(e.colour(smooth=None, percentile=90), e.colour(box, 90))


# --- places ---


def places(figure: Any) -> tuple[list[Any], list[Any]]:
    """Boxes in inches of the pictures and of all words, of a figure that has been drawn."""
    texts = [*drawn(figure).texts, *(t for ax in figure.axes for t in (*ax.texts, ax._left_title))]
    for bar in (ax for ax in figure.axes if ax.axison):
        texts += [*bar.get_yticklabels(), bar.yaxis.label]
    pictures = [ax.get_window_extent() for ax in figure.axes if ax.images]
    return pictures, [t.get_window_extent() for t in texts if t.get_text()]


@pytest.mark.parametrize("size", [8, (4, 300), (300, 4)], ids=str)
@pytest.mark.parametrize(
    ("names", "title"),
    [(None, "short"), ([LONG], "one/folder/" * 40)],
    ids=["short", "long"],
)
def test_nothing_lies_over_anything_or_beyond_the_edge(size: Any, names: Any, title: str | None) -> None:
    e = explained(size, 2)
    for figure in (e.plot(class_names=names, title=title), plot.columns({title or "a": e, "b": e[:1]}, names)):
        pictures, texts = places(figure)
        for box in [*pictures, *texts]:
            assert min(box.x0, box.y0) >= 0
            assert box.x1 <= figure.bbox.x1
            assert box.y1 <= figure.bbox.y1
        for one, other in itertools.combinations([*pictures, *(t for t in texts if t.height < 400)], 2):
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            along = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert min(across, along) <= 3  # dots: nothing is hidden


@pytest.mark.parametrize("size", [8, (4, 300), (300, 4)], ids=str)
def test_titles_stand_at_one_height(size: Any) -> None:
    figure = drawn(explained(size).plot())
    titles = [ax._left_title for ax in figure.axes if ax.get_title(loc="left")]
    assert [t.get_text() for t in titles] == ["image", "contributions", "colour explanation", "ledger"]
    baselines = {round(t.get_transform().transform(t.get_position())[1], 3) for t in titles}
    assert len(baselines) == 1


@pytest.mark.parametrize("size", [(40, 300), (300, 40), (8, 80)], ids=str)
def test_panoramas_stay_readable(size: tuple[int, int]) -> None:
    height, width = size
    for figure in (explained(size).plot(), plot.columns({"": explained(size)})):
        for box in places(figure)[0]:
            assert min(box.width, box.height) >= 0.75 * 100
            assert (box.width / box.height) == pytest.approx(width / height, rel=0.01)


@pytest.mark.parametrize(("right", "wrong"), [(1, 5), (5, 1), (12, 3), (1, 1)])
def test_the_colour_bar_stands_beside_its_maps(right: int, wrong: int) -> None:
    figure = plot.columns({"right": explained(8, right), "wrong": explained(8, wrong)})
    bars = [ax for ax in figure.axes if ax.get_ylabel()]
    lasts = [maps(figure)[place].axes for place in (right - 1, -1)]
    for bar, last in zip(bars, lasts, strict=True):
        assert 0 < bar.get_window_extent().x0 - last.get_window_extent().x1 < 20
        assert bar.get_window_extent().y1 == pytest.approx(last.get_window_extent().y1)
    assert figure.get_size_inches()[0] <= 2.72 * max(right, wrong) + 1.8


# --- scales ---


def test_each_band_has_its_own_stated_scale() -> None:
    strong, weak = explained(8, 3), explained(8, 2, strength=1e-3)
    figure = drawn(plot.columns({"strong": strong, "weak": weak}))
    bars = [ax for ax in figure.axes if ax.get_ylabel()]
    for shown, bar, e in ((maps(figure)[:3], bars[0], strong), (maps(figure)[3:], bars[1], weak)):
        scale = np.percentile(np.abs(e.contributions.numpy()), 99.5)
        assert {picture.get_clim() for picture in shown} == {(-scale, scale)}
        assert [t.get_text() for t in bar.get_yticklabels()] == [f"{-scale:.3g}", "0", f"+{scale:.3g}"]
        assert max(np.ptp(picture.to_rgba(picture.get_array())) for picture in shown) > 0.5  # not almost white


@pytest.mark.parametrize("strength", [0.0, 1e-38, 1e20])
def test_any_strength_is_drawn(strength: float) -> None:
    figure = explained(8, 1, strength).plot()
    assert plot.png(figure)
    colours = np.ptp(maps(figure)[0].to_rgba(maps(figure)[0].get_array()))
    assert bool(colours > 0.3) is (strength > 0)


def test_one_strong_pixel_among_zeros_is_seen() -> None:
    e = explained(32)
    spot = torch.zeros_like(e.contributions)
    spot[0, 3, 4] = 1e-3
    figure = dataclasses.replace(e, contributions=spot).plot()
    (clim,) = {picture.get_clim() for picture in maps(figure)}
    assert clim == pytest.approx((-1e-3, 1e-3))


# --- how many ---


@pytest.mark.parametrize(
    ("e", "works"),
    [
        (explained(4, 101), 100),
        (explained(4, 300), 100),
        (explained(4, 60, targets=5), 20),
        (explained(4, 1, targets=101), 100),
        (explained(4, 3, targets=200)[0], 100),
        (explained((40, 4), 101), 37),
    ],
    ids=["101", "300", "60 of 5", "1 of 101", "single", "tall"],
)
def test_too_many_rows_are_refused_with_the_number_that_works(
    e: Explanation, works: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "draw_rows", lambda shown, *rest: len(shown))
    with pytest.raises(ValueError, match=rf"^{e.target.numel()} rows.* at most {works} ") as refused:
        e.plot()
    with pytest.raises(ValueError, match=r"columns.*at most"):
        plot.columns({"a": dataclasses.replace(e, images=e.images.mT, contributions=e.contributions.mT)})
    if "images at a time" in str(refused.value):
        assert e[:works].plot() == works * e[0].target.numel()
    else:
        targets = e.images.dim() - 3
        assert e._apply(lambda t: t if t is e.images else t.narrow(targets, 0, works)).plot() == works


@pytest.mark.parametrize("targets", [0, 150])
def test_a_notebook_shows_the_first_rows_and_says_so(targets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(layout, "draw_rows", lambda *given: shown.append(given))
    monkeypatch.setattr(plot, "png", lambda figure: b"a picture")
    e = explained(4, 9, targets=targets)
    assert e._repr_png_() is not None
    assert (len(shown[0][0]), shown[0][1]) == (8, f"the first 8 of {e.target.numel()}")
    assert e[0]._repr_png_() is not None
    assert len(shown[1][0]) == min(8, max(targets, 1))


def test_too_few_class_names_are_a_sentence() -> None:
    e = explain(toy(NAME), random_images(1, 12), TopK(5))
    with pytest.raises(ValueError, match=re.escape("class_names holds 3 names")):
        e.plot(class_names=["a", "b", "c"])


def test_an_empty_band_is_left_out() -> None:
    e = explained(8, 2)
    assert len(plot.columns({"none": e[:0], "two": e}).axes) == 9
    for parts in ({}, {"none": e[:0]}):
        with pytest.raises(ValueError, match="nothing to draw"):
            plot.columns(parts)
    with pytest.raises(ValueError, match="nothing to draw"):
        e[:0].plot()
