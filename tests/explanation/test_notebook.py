"""How an explanation presents itself: in a notebook, at a prompt, in a file's metadata."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from bcos_vit import Explanation, TopK, explain
from bcos_vit.explanation import plot
from bcos_vit.models.vit import ViT


def test_repr_is_one_line_that_says_what_it_is(model: ViT, images: Tensor) -> None:
    e = explain(model, images)
    assert repr(e).startswith("<Explanation (inherent) of 3 images of 12 x 12; largest relative residual ")
    assert f"{float(e.relative_residual.max()):.1e}" in repr(e)
    assert "of one image of 12 x 12;" in repr(e[0])
    assert ", 2 targets each;" in repr(explain(model, images, TopK(2)))
    assert "residual none" in repr(e[:0])


def test_a_notebook_shows_the_picture(model: ViT, images: Tensor) -> None:
    e = explain(model, images)
    for shown, height in ((e, 3), (e[0], 1)):
        data = shown._repr_png_()
        assert data is not None
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert picture.height > 150 * height


def test_a_notebook_shows_the_first_images_of_many(model: ViT, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    e = explain(model, images.repeat(4, 1, 1, 1))
    drawn: list[int] = []
    original = plot.rows
    monkeypatch.setattr(plot, "rows", lambda e, *rest, **names: drawn.append(len(e)) or original(e, *rest, **names))
    e._repr_png_()
    assert drawn == [8]


def test_without_matplotlib_a_notebook_falls_back_to_repr(
    model: ViT, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    assert explain(model, images)._repr_png_() is None


def test_nothing_to_show_is_no_error(model: ViT, images: Tensor) -> None:
    assert explain(model, images)[:0]._repr_png_() is None


def test_plotting_without_matplotlib_gives_the_install_line(
    model: ViT, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'bcos_vit\[plot\]'"):
        explain(model, images).plot()


def test_titles_and_class_names_are_text_not_formulas(model: ViT, images: Tensor) -> None:
    figure = explain(model, images[:1]).plot(title=r"$\frac$.png 図", class_names=[r"$5_{", "$b", "c$", "$", r"\x"])
    assert plot.png(figure)  # raises if anything is taken for mathematics


def test_plots_smooth_as_colours_do(model: ViT, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    original = Explanation.colour
    monkeypatch.setattr(Explanation, "colour", lambda e, s, p: used.append(s) or original(e, s, p))
    explain(model, images[:1]).plot()
    explain(model, torch.rand(1, 3, 72, 72)).plot(smooth=None)
    explain(model, images[:1]).plot(smooth=5)
    assert used == [None, None, 5]


def test_files_say_what_they_are_about(model: ViT, images: Tensor, tmp_path: Path) -> None:
    e, path = explain(model, images), tmp_path / "e.safetensors"
    e.save(path, about={"photo": "cat.jpg", "method": "of no effect"})
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["photo"] == "cat.jpg"
        assert file.metadata()["method"] == "inherent"
    assert torch.equal(Explanation.load(path).contributions, e.contributions)
