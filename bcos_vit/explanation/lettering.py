"""Letters of any script in pictures: drawn by an installed font that has them, or spelt in ASCII, never boxes."""

from __future__ import annotations

import logging
import re
import textwrap
import unicodedata
from collections.abc import Callable
from functools import cache

import numpy as np
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

_log = logging.getLogger("bcos_vit")

NOT_FOR_TEXT = re.compile(r"Last Resort.*|cm[a-z]+10|STIX(Non|Size).*")
"""Families with boxes for letters, or with symbols in the places of letters."""
JOINERS = "\u200c\u200d"
"""Invisible signs that say how the letters beside them join, in Persian and Hindi for instance."""


def spelt(text: str, family: str = "sans-serif") -> str:
    r"""The same text with no character that cannot be drawn.

    Control characters, line ends and lone surrogates become escapes. Letters that no installed font has are spelt in
    ASCII by anyascii, or shown as code points without it; the log says so once a process.

    >>> spelt("a\nb"), spelt("caf\udce9"), spelt("Kätzchen $5_{")
    ('a\\nb', 'caf\\udce9', 'Kätzchen $5_{')
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spelt(character, family) for character in text)


def families(text: str, family: str = "sans-serif") -> list[str]:
    """The families of fonts that draw all letters of a spelt text, the usual one first."""
    missing = [] if text.isascii() else [c for c in text if not c.isspace() and not _has(_path(family), c)]
    return list(dict.fromkeys([family, *filter(None, map(_fallback, missing))]))


def fold(text: str, width: int, lines: int) -> str:
    """Break a text into at most ``lines`` lines of ``width`` Latin letters; Chinese letters are twice as wide."""
    wide = any(unicodedata.east_asian_width(c) in "WF" for c in text)
    width = width // 2 if wide else width
    return "\n".join(textwrap.wrap(text, max(width, 8), max_lines=lines, placeholder=" ..."))


def _spelt(character: str, family: str) -> str:
    kind = unicodedata.category(character)
    if kind == "Zs":
        return " "
    if kind == "Cf" and character not in JOINERS:
        return ""  # invisible in any font
    if kind in ("Cc", "Cs", "Zl", "Zp"):
        return character.encode("unicode_escape", "surrogatepass").decode()
    if kind != "Co" and (_has(_path(family), character) or _fallback(character)):
        return character
    speller = _speller()
    letters = speller(character) if speller else ""
    if not letters and (character in JOINERS or (speller and kind[0] == "M")):
        return ""  # a part of the letter before it that has no sound of its own
    letters = letters or f"U+{ord(character):04X}"
    _note(character, letters, speller is not None)
    return letters


@cache
def _speller() -> Callable[[str], str] | None:
    try:
        from anyascii import anyascii
    except ModuleNotFoundError:
        return None
    return anyascii


_noted: list[str] = []


def _note(character: str, letters: str, spelling: bool) -> None:
    """Say once a process that letters are drawn otherwise than they are written."""
    if _noted:
        return
    _noted.append(character)
    shown = character if character.isprintable() else character.encode("unicode_escape").decode()
    how = "are spelt in ASCII" if spelling else "are shown as code points (pip install 'bcos_vit[plot]' spells them)"
    _log.warning(
        "no installed font has the letter %s (U+%04X): in pictures, letters without a font %s, this one as %s; "
        "to see them as they are, install a font that has them",
        *(shown, ord(character), how, letters),
    )


@cache
def _path(family: str) -> str:
    return str(font_manager.findfont(font_manager.FontProperties(family=[family])))


@cache
def _letters(path: str) -> np.ndarray:
    """The sorted code points of the letters that a font file has; none if it cannot be read."""
    try:
        return np.array(sorted(font_manager.get_font(path).get_charmap()), dtype=np.uint32)
    except (RuntimeError, OSError, ValueError):
        return np.array([], dtype=np.uint32)


def _has(path: str, character: str) -> bool:
    letters = _letters(path)
    place = int(np.searchsorted(letters, ord(character)))
    return place < len(letters) and int(letters[place]) == ord(character)


@cache
def _installed() -> dict[str, str]:
    """Every family that is fit for text, and its most usual font file; read when the first letter is missing."""

    def unusual(entry: font_manager.FontEntry) -> tuple[bool, int, str]:
        weight = entry.weight if isinstance(entry.weight, int) else 400
        return entry.style != "normal", abs(weight - 400), str(entry.fname)

    entries = sorted(font_manager.fontManager.ttflist, key=unusual, reverse=True)
    usual = {entry.name: str(entry.fname) for entry in entries if not NOT_FOR_TEXT.fullmatch(entry.name)}
    return dict(sorted(usual.items()))


@cache
def _fallback(character: str) -> str | None:
    """The first family whose font really draws ``character``: some have a place for a letter, and nothing in it."""
    for family, path in _installed().items():
        if _has(path, character) and _draws(_path(family), character):
            return family
    return None


def _draws(path: str, character: str) -> bool:
    try:
        font = font_manager.get_font(path)
        return bool(font.get_char_index(ord(character))) and _outline(font, character)
    except (RuntimeError, OSError, ValueError):
        return False  # a font of small pictures, as those of emoji are, has no outlines


def _outline(font: FT2Font, character: str) -> bool:
    font.set_size(10, 72)
    font.load_char(ord(character))
    return len(font.get_path()[0]) > 0
