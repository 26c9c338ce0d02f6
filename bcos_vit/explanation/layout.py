"""Where the cells of a picture lie: in rows, or in bands of columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bcos_vit.explanation.lettering import fold, spelt
from bcos_vit.explanation.page import (
    BAR,
    LEDGER_WIDTH,
    LINE,
    Page,
    Style,
    cell_size,
    draw_cells,
    ledger_words,
    shared_scale,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bcos_vit.explanation.result import Explanation

TITLES = ("image", "contributions", "colour explanation", "ledger")
GAP = 0.12
"""Inches between cells."""
LETTER = 0.11
"""Inches of a heading's letter, capitals too."""
NAMES = 0.5
"""Inches for the names of the cells beside a band."""


def draw_rows(shown: Sequence[Explanation], title: str | None, style: Style) -> Figure:
    """A row of four cells for every image and target, below the names of the columns and a title."""
    width, height = cell_size(shown[0])
    ledgers = [ledger_words(single, style.class_names) for single in shown]
    pitches = [max(height, _ledger_height(words)) + GAP for words in ledgers]
    column = max(width, 1.35) + GAP  # the widest name of a column
    lefts = (GAP, GAP + column, GAP + 2 * column + BAR, GAP + 3 * column + BAR)
    across = lefts[3] + LEDGER_WIDTH + GAP
    heading = _folded(title, across)
    top = GAP + _text_height(heading) + 0.25
    page, scale = Page(across, top + sum(pitches)), shared_scale(shown)
    page.words(GAP, GAP, heading, 10)
    page.colour_bar(scale, shown[0], lefts[1] + width, top, height)
    for number, (single, words, pitch) in enumerate(zip(shown, ledgers, pitches, strict=True)):
        cells = [page.axes(left, top, width, height) for left in lefts]
        draw_cells(cells, single, words, scale, style)
        if number == 0:
            for ax, name in zip(cells, TITLES, strict=True):
                ax.set_title(name, fontsize=10, loc="left")
        top += pitch
    return page.figure


def draw_columns(parts: Mapping[str, Sequence[Explanation]], style: Style) -> Figure:
    """A band of columns of four cells for every caption, each with a scale of its own."""
    bands = [_Band.of(caption, shown, style) for caption, shown in parts.items()]
    page, top = Page(max(band.width for band in bands), sum(band.height for band in bands)), 0.0
    for band in bands:
        band.draw(page, top, style)
        top += band.height
    return page.figure


@dataclass(frozen=True)
class _Band:
    """Columns below one caption, and their sizes in inches."""

    caption: str
    shown: Sequence[Explanation]
    ledgers: Sequence[str]
    cell: tuple[float, float]
    width: float

    @classmethod
    def of(cls, caption: str, shown: Sequence[Explanation], style: Style) -> _Band:
        cell = cell_size(shown[0])
        width = NAMES + len(shown) * _column(cell[0]) + BAR
        return cls(_folded(caption, width), shown, [ledger_words(e, style.class_names) for e in shown], cell, width)

    @property
    def tops(self) -> list[float]:
        """Where the four cells begin, below the band's upper edge."""
        first = GAP + _text_height(self.caption)
        return [first + place * (self.cell[1] + GAP) for place in range(4)]

    @property
    def height(self) -> float:
        return self.tops[3] + max(map(_ledger_height, self.ledgers)) + 2 * GAP

    def draw(self, page: Page, top: float, style: Style) -> None:
        width, height = self.cell
        page.words(GAP, top + GAP, self.caption, 10)
        for name, below in zip(TITLES, self.tops, strict=True):
            middle = top + below + (height / 2 if name != "ledger" else 0.4)
            page.words(NAMES / 2, middle, name.replace(" ", "\n"), 9, rotation=90, ha="center", va="center")
        scale, left = shared_scale(self.shown), NAMES
        for single, words in zip(self.shown, self.ledgers, strict=True):
            heights = (height, height, height, _ledger_height(words))
            cells = [page.axes(left, top + below, width, h) for below, h in zip(self.tops, heights, strict=True)]
            draw_cells(cells, single, words, scale, style)
            left += _column(width)
        page.colour_bar(scale, self.shown[0], left - _column(width) + width, top + self.tops[1], height)


def _column(width: float) -> float:
    return max(width, LEDGER_WIDTH) + GAP


def _ledger_height(words: str) -> float:
    return LINE * (words.count("\n") + 1)


def _folded(text: str | None, width: float) -> str:
    """A heading in lines that are as long as a page is wide."""
    return "" if text is None else fold(spelt(text), int((width - 2 * GAP) / LETTER), 4)


def _text_height(text: str) -> float:
    return 0.18 * (text.count("\n") + 1) + GAP if text else 0.0
