"""Targets in words: ``tabby``, ``281``, ``top5``, ``tabby-vs-lynx``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bcos_vit.checks import nearest
from bcos_vit.explanation import Contrast, TopK

WordedTarget = int | TopK | Contrast


def parse_targets(text: str, classes: int, class_names: Sequence[str] | None) -> list[WordedTarget]:
    """Read a comma-separated list of class numbers or names, ``topN``, and ``A-vs-B``.

    A number that is also the name of another class is told from it by a hash: ``#3`` is class number 3.

    >>> parse_targets("lynx,top2,1-vs-tabby", 3, ["lynx", "wolf", "tabby"])
    [0, TopK(k=2), Contrast(a=1, b=2)]

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
        For an empty entry, a number out of range, or a name that is unknown (with the nearest) or stands for several
        classes (with their numbers).
    """
    return [_target(entry.strip(), classes, class_names) for entry in text.split(",")]


def _target(entry: str, classes: int, names: Sequence[str] | None) -> WordedTarget:
    if not entry:
        raise ValueError("a target is empty: separate class numbers or names, topN or A-vs-B by single commas")
    if top := re.fullmatch(r"top(\d+)", entry, re.IGNORECASE):
        k = int(top[1])
        if not 1 <= k <= classes:
            raise ValueError(f"{entry} is impossible: the model has {classes} classes")
        return TopK(k)
    sides = re.split("-vs-", entry, maxsplit=1, flags=re.IGNORECASE)
    if len(sides) == 2:
        a, b = (_class(name.strip(), classes, names) for name in sides)
        if a == b:
            raise ValueError(f"{entry} compares class {a} with itself")
        return Contrast(a, b)
    return _class(entry, classes, names)


def _class(word: str, classes: int, names: Sequence[str] | None) -> int:
    called = {number for number, name in enumerate(names or ()) if name.casefold() == word.casefold()}
    if number := re.fullmatch(r"#?(\d+)", word):
        if int(number[1]) < classes:
            called.add(int(number[1]))
        elif not called:
            raise ValueError(f"class {word} is out of range: the classes are 0 to {classes - 1}")
    if len(called) > 1:
        options = " or ".join(f"#{number}" for number in sorted(called))
        raise ValueError(f"{word!r} stands for several classes: say {options}")
    if not called:
        hint = "; the model has no class names, give numbers" if names is None else _nearest(word, names)
        raise ValueError(f"no class is named {word!r}{hint}")
    return called.pop()


def _nearest(word: str, names: Sequence[str]) -> str:
    hint = nearest(word, names)
    return hint if len(hint) < 200 else ": give its number, from 0"
