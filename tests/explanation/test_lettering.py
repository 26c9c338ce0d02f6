"""Names of any script in pictures: drawn if a font has their letters, else spelt with one note, never boxes."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib import font_manager
from torch import Tensor

from bcos_vit import explain
from bcos_vit.explanation import lettering, plot
from bcos_vit.models.vit import ViT

NAMES = [
    *("猫", "老虎", "ひらがな", "고양이", "हिन्दी", "বিড়াল", "ไทย", "น้ำ", "አማርኛ", "مرحبا", "שלום", "Жук", "Ωμέγα"),
    *("🦁 lion", "👩‍🔬", "☃️", "Kätzchen", "naïve", "a\u0301", "\u3000wide", "\u202emirrored", "\ufeffmark", "\u200c"),
    *("$5_{", r"\frac{1}{0}", "$x^$", "two\nlines", "\x00\x1b[31m", "caf\udce9", "\ue000", "\u0378", "", " ", "\u2028"),
]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """A process that has looked for no font and has said nothing."""

    def forget() -> None:
        lettering._noted.clear()
        for cached in (lettering._speller, lettering._installed, lettering._fallback):
            cached.cache_clear()

    forget()
    yield
    forget()


def bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the fonts that matplotlib brings."""
    own = [f for f in font_manager.fontManager.ttflist if "mpl-data" in str(f.fname)]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("speller", [True, False], ids=["anyascii", "without"])
def test_no_name_is_drawn_as_boxes(name: str, speller: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not speller:
        monkeypatch.setitem(sys.modules, "anyascii", None)
    for family in ("monospace", "sans-serif"):
        text = lettering.spelt(name, family)
        paths = [
            font_manager.findfont(font_manager.FontProperties(family=[f])) for f in lettering.families(text, family)
        ]
        assert "LastResort" not in "".join(map(str, paths))
        for character in text:
            assert character.isprintable() or character in lettering.JOINERS
            assert any(ord(character) in font_manager.get_font(path).get_charmap() for path in paths)


@pytest.mark.parametrize("where", ["rows", "title", "columns", "caption"])
def test_pictures_take_any_name(model: ViT, images: Tensor, where: str) -> None:
    e, names = explain(model, images[:1]), ["".join(NAMES)] * 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # so matplotlib tells of a glyph that is missing
        match where:
            case "rows":
                figure = e.plot(class_names=names)
            case "title":
                figure = e.plot(title=names[0])
            case "columns":
                figure = plot.columns({"": e}, names)
            case "caption":
                figure = plot.columns({names[0]: e})
        assert plot.png(figure)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("猫", "Mao"),
        ("हिन्दी", "hindi"),
        ("ሰላም", "selam"),
        ("🦁 lion", ":lion_face: lion"),
        ("caf\udce9", r"caf\udce9"),
        ("a\nb\tc\x00", r"a\nb\tc\x00"),
        ("\u2028", r"\u2028"),
        ("a\u00a0b\u3000c", "a b c"),
        ("Kätzchen", "Kätzchen"),
        ("$5 \\", "$5 \\"),
        ("\ue000", "U+E000"),
    ],
    ids=ascii,
)
def test_how_names_are_spelt(name: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bare_machine(monkeypatch)
    assert lettering.spelt(name) == expected


def test_the_note_comes_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    bare_machine(monkeypatch)
    for name in ("cat", "猫", "老虎", "हिन्दी"):
        lettering.spelt(name)
    (note,) = caplog.records
    assert note.levelno == logging.WARNING
    assert "猫 (U+732B)" in note.getMessage()
    assert "as Mao" in note.getMessage()


def test_without_anyascii_code_points_and_the_install_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare_machine(monkeypatch)
    monkeypatch.setitem(sys.modules, "anyascii", None)
    assert lettering.spelt("猫 and 虎") == "U+732B and U+864E"
    assert lettering.spelt("ก") == "U+0E01"
    (note,) = caplog.records
    assert "pip install 'bcos_vit[plot]'" in note.getMessage()


def test_latin_names_look_for_no_font(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(lettering, "_letters", lambda path: pytest.fail("a font is read"))
    assert lettering.spelt("tabby cat, $5_{") == "tabby cat, $5_{"
    assert lettering.families("tabby cat") == ["sans-serif"]
    monkeypatch.undo()
    monkeypatch.setattr(font_manager.fontManager, "ttflist", None)  # nor is the list of fonts
    assert lettering.spelt("Kätzchen") == "Kätzchen"
    assert not caplog.records


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, character: str, *, blank: bool = False) -> None:
    """A font with one letter, a square or nothing, on a machine that else has matplotlib's own."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen, empty = TTGlyphPen(None), TTGlyphPen(None).glyph()
    for step, corner in ((pen.moveTo, (0, 0)), *((pen.lineTo, c) for c in ((0, 900), (900, 900), (900, 0)))):
        step(corner)
    pen.closePath()
    builder, family = FontBuilder(1000, isTTF=True), f"Only {ord(character):X} {'blank' if blank else 'square'}"
    builder.setupGlyphOrder([".notdef", "letter"])
    builder.setupCharacterMap({ord(character): "letter"})
    builder.setupGlyf({".notdef": empty, "letter": empty if blank else pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "letter": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(folder / "font.ttf")
    bare_machine(monkeypatch)
    font_manager.fontManager.addfont(folder / "font.ttf")


@pytest.mark.parametrize("character", ["猫", "ह", "🦁"])
def test_an_installed_font_that_has_the_letters_draws_them(
    character: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(tmp_path, monkeypatch, character)
    assert lettering.spelt(f"{character} cat") == f"{character} cat"
    assert lettering.families(f"{character} cat", "monospace") == ["monospace", f"Only {ord(character):X} square"]
    assert not caplog.records


def test_a_font_with_nothing_in_a_letters_place_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "狗", blank=True)
    assert lettering.spelt("狗") == "Gou"


def test_a_font_file_that_is_damaged_or_gone_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "羊")
    (tmp_path / "font.ttf").write_bytes(b"no font")
    assert lettering.spelt("羊") == "Yang"
    (tmp_path / "font.ttf").unlink()
    lettering._fallback.cache_clear()
    assert lettering.spelt("羊") == "Yang"


@pytest.mark.parametrize(("text", "expected"), [("ab " * 20, 22), ("猫" * 40, 11)], ids=["Latin", "Chinese"])
def test_lines_are_as_long_as_they_look(text: str, expected: int) -> None:
    lines = lettering.fold(text, 22, 3).splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= expected


@pytest.mark.slow
def test_a_process_that_set_up_no_logging_says_it_on_stderr() -> None:
    program = "from bcos_vit.explanation.lettering import spelt; print(spelt('\\U00012000'), spelt('\\U00012001'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.isascii()
    assert len(done.stderr.splitlines()) == 1
    assert "U+12000" in done.stderr
