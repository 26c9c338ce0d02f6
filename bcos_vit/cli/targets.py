"""Targets in words: ``tabby``, ``281``, ``top5``, ``tabby-vs-lynx``, ``"rocket, big"``."""

from __future__ import annotations

import difflib
import re
import shlex
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from bcos_vit.explanation import Contrast, TopK

WordedTarget = int | TopK | Contrast

_WORD = re.compile(r'\s*(?:"(?P<quoted>(?:[^"]|"")*)"|(?P<plain>.*?))\s*(?P<end>,|-vs-|\Z)', re.IGNORECASE | re.DOTALL)


def parse_targets(text: str, classes: int, class_names: Sequence[str] | None) -> list[WordedTarget]:
    """Read a comma-separated list of class numbers or names, ``topN``, and ``A-vs-B``.

    A name between double quotes is nothing but a name, with its commas and blanks, a quote in it written twice.
    A number that is also the name of another class is told from it by a hash: ``#3`` is class number 3.

    >>> parse_targets("lynx,top2,1-vs-tabby", 3, ["lynx", "wolf", "tabby"])
    [0, TopK(k=2), Contrast(a=1, b=2)]
    >>> parse_targets('"rocket, big"-vs-cat', 2, ["rocket, big", "cat"])
    [Contrast(a=0, b=1)]

    Parameters
    ----------
    text
        As above; case does not matter, nor do blanks around commas.
    classes
        K, how many classes the model has.
    class_names
        Their names, if known.

    Raises
    ------
    ValueError
        For an empty entry, a number out of range, or a name that is unknown (with the nearest); for what can be read
        in several ways, with what to type for each.
    """
    known = _Classes(classes, class_names)
    try:
        return [_target(words, known) for words in _entries(text)]
    except ValueError as error:
        raise ValueError(f"{error}{known.torn(text)}") from None


@dataclass(frozen=True)
class _Word:
    """What may stand for a class."""

    text: str
    quoted: bool
    raw: str
    """As it was typed."""

    @classmethod
    def join(cls, words: Sequence[_Word]) -> _Word:
        """``words`` as one, for a name with ``-vs-`` in it."""
        if len(words) == 1:
            return words[0]
        raw = "-vs-".join(word.raw for word in words)
        return cls(raw, quoted=False, raw=raw)


def _entries(text: str) -> list[list[_Word]]:
    """The entries between commas, each a list of the words between ``-vs-``."""
    entries: list[list[_Word]] = [[]]
    for found in _WORD.finditer(text):
        raw, quoted = found[0].removesuffix(found["end"]).strip(), found["quoted"] is not None
        entries[-1].append(_Word(found["quoted"].replace('""', '"') if quoted else found["plain"], quoted, raw))
        if found["end"] == ",":
            entries.append([])
        elif not found["end"]:
            break
    return entries


class _Classes:
    """The classes of a model, and how each can be said."""

    def __init__(self, count: int, names: Sequence[str] | None) -> None:
        self.count, self.names = count, names
        self._exact: dict[str, set[int]] = {}
        self._folded: dict[str, set[int]] = {}
        for number, name in enumerate(names or ()):
            self._exact.setdefault(name, set()).add(number)
            self._folded.setdefault(_folded(name), set()).add(number)

    def called(self, word: _Word) -> set[int]:
        """The numbers of all classes that ``word`` may mean."""
        folded = self._folded.get(_folded(word.text), set())
        if word.quoted:
            return self._exact.get(word.text, folded)
        number = re.fullmatch(r"#?(\d+)", word.text)
        return folded | {int(number[1])} if number and int(number[1]) < self.count else folded

    def readings(self, words: Sequence[_Word]) -> list[WordedTarget]:
        """Every target that ``words`` may mean."""
        whole = _Word.join(words)
        found: list[WordedTarget] = [*sorted(self.called(whole))]
        if (k := _top(whole)) is not None and 1 <= k <= self.count:
            found.append(TopK(k))
        for place in range(1, len(words)):
            sides = (sorted(self.called(_Word.join(side))) for side in (words[:place], words[place:]))
            found += [Contrast(a, b) for a, b in product(*sides) if a != b]
        return found

    def said(self, target: WordedTarget) -> str:
        """What to type for ``target``, and for nothing else: by numbers where possible."""
        if isinstance(target, TopK):
            return f"top0{target.k}"
        if isinstance(target, Contrast):
            return f"{self.said(int(target.a))}-vs-{self.said(target.b)}"  # type: ignore[arg-type]  # no batch of them
        return self._first((f"#{target}", self.typed(target)), target)

    def typed(self, number: int) -> str:
        """What to type for a class: its name, in quotes where needed, or else its number."""
        name = self.names[number] if self.names else str(number)
        doubled = name.replace('"', '""')
        return self._first((name, f'"{doubled}"', f"#{number}", f"#0{number}"), number)

    def torn(self, text: str) -> str:
        """Of a name with commas that ``text`` holds, how it is typed so that it stays in one piece."""
        commas = [number for number, name in enumerate(self.names or ()) if "," in name and _bare(name) in _bare(text)]
        return f"; a name with a comma is typed as {_in_shell(self.typed(commas[0]))}" if commas else ""

    def _first(self, ways: Sequence[str], number: int) -> str:
        return next((way for way in ways if way.isprintable() and self._all(way) == [number]), ways[-1])

    def _all(self, text: str) -> list[WordedTarget]:
        return [target for words in _entries(text) for target in self.readings(words)]


def _target(words: Sequence[_Word], known: _Classes) -> WordedTarget:
    whole = _Word.join(words)
    if not whole.raw:
        raise ValueError("a target is empty: separate class numbers or names, topN or A-vs-B by single commas")
    readings = known.readings(words)
    if not readings:
        raise ValueError(_why_nothing(words, known))
    if len(readings) > 1:
        kind = "classes" if all(isinstance(target, int) for target in readings) else "targets"
        ways = " or ".join(_in_shell(known.said(target)) for target in readings)
        raise ValueError(f"{whole.raw!r} stands for several {kind}: say {ways}")
    return readings[0]


def _why_nothing(words: Sequence[_Word], known: _Classes) -> str:
    whole = _Word.join(words)
    if _top(whole) is not None:
        return f"{whole.raw} is impossible: the model has {known.count} classes"
    sides = [words[0], _Word.join(words[1:])] if len(words) > 1 else [whole]
    wrong = next((side for side in sides if not known.called(side)), None)
    if wrong is None:
        return f"{whole.raw} compares class {min(known.called(sides[0]))} with itself"
    if not wrong.quoted and re.fullmatch(r"#?\d+", wrong.text):
        return f"class {wrong.text} is out of range: the classes are 0 to {known.count - 1}"
    return f"no class is named {wrong.text!r}{_nearest(wrong.text, known)}"


def _nearest(word: str, known: _Classes) -> str:
    names = known.names
    if names is None:
        return "; the model has no class names, give numbers"
    if close := difflib.get_close_matches(word, names, n=1):
        return f", did you mean {_in_shell(known.typed(names.index(close[0])))}?"
    valid = ", ".join(known.typed(number) for number in sorted(range(known.count), key=names.__getitem__))
    return f"; valid are: {valid}" if len(valid) < 200 else ": give its number, from 0"


def _top(word: _Word) -> int | None:
    """N, where ``word`` is ``topN``."""
    found = None if word.quoted else re.fullmatch(r"top(\d+)", word.text, re.IGNORECASE)
    return None if found is None else int(found[1])


def _folded(name: str) -> str:
    """The same for all ways to write a name: in capitals or not, an accent as part of its letter or after it."""
    return unicodedata.normalize("NFC", name).casefold()


def _bare(text: str) -> str:
    """``text`` as :func:`_folded`, without blanks."""
    return "".join(_folded(text).split())


def _in_shell(text: str) -> str:
    """``text`` in quotes, as it is typed after ``--targets``: a shell takes a bare ``#3`` for a comment."""
    return f"'{text}'" if "'" not in text else shlex.quote(text)
