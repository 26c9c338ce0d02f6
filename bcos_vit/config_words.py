"""Words of the command line that Hydra's grammar does not take as they are meant: above all paths."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from bcos_vit.extras import needs

with needs("train"):
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

PATHS = ("data.root", "model.name", "output", "resume")
"""What is a path, so that no number, list or choice can be meant."""
_WORD = re.compile(r"(?P<key>\+{0,2}[A-Za-z_][\w.@/:-]*)=(?P<value>.*)", re.DOTALL)


def read_words() -> None:
    """Expand ``~`` in the words that this process was called with; end it with a sentence if one cannot be read."""
    try:
        sys.argv[1:] = readable(sys.argv[1:], program=Path(sys.argv[0]).name)
    except ValueError as error:
        sys.exit(f"error: {error}")


def readable(words: Sequence[str], *, program: str) -> list[str]:
    """The words with ``~`` expanded where a value begins with it.

    Raises
    ------
    ValueError
        If Hydra would refuse a word, or take a path for something else, with the line to type in a shell.
    """
    several = any(word in ("-m", "--multirun") for word in words)
    together = _together(words)
    expanded = [_expanded(word, several) for word in together]
    wrong = [new for old, new in zip(together, expanded, strict=True) if old not in words or _is_misread(new, several)]
    if wrong:
        line = shlex.join(["python", program, *(_quoted_word(word) if word in wrong else word for word in expanded)])
        raise ValueError(
            f"{' and '.join(wrong)} cannot be read, since Hydra gives signs such as = , ( ) [ ] {{ }} and numbers a "
            f"meaning of their own and takes no others, and a shell ends a word at a space; quotes in quotes keep it "
            f"as it is, type: {line}"
        )
    return expanded


def _together(words: Sequence[str]) -> list[str]:
    """The words, where those behind a path that are no ``name=value`` belong to it: it was typed without quotes."""
    joined: list[str] = []
    for word in words:
        before = _WORD.fullmatch(joined[-1]) if joined else None
        if before is not None and _is_path(before["key"]) and "=" not in word and not word.startswith(("-", "~")):
            joined[-1] += f" {word}"
        else:
            joined.append(word)
    return joined


def _expanded(word: str, several: bool) -> str:
    """The word with ``~`` expanded where its value, or one of the ``several`` values of a multirun, begins with it."""
    found = _WORD.fullmatch(word)
    if found is None:
        return word
    several = several and not re.search(r"[\"'(\[{]", found["value"])  # else commas may stand in quotes or brackets
    values = [value.strip() for value in found["value"].split(",")] if several else [found["value"]]
    if not any(value.startswith("~") for value in values):
        return word
    return f"{found['key']}={','.join(map(_in_home, values))}"


def _in_home(value: str) -> str:
    return quoted(os.path.expanduser(value)) if value.startswith("~") else value


def _is_path(key: str) -> bool:
    return key.lstrip("+") in PATHS


def quoted(value: str) -> str:
    """The value in quotes, in which Hydra takes it as text; ``${name}`` refers to a value as before."""
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + (found[2] and '\\"'), value)
    return f'"{escaped}"'


def _quoted_word(word: str) -> str:
    key, _, value = word.partition("=")
    return f"{key}={quoted(value)}"


def _is_misread(word: str, several: bool) -> bool:
    found = _WORD.fullmatch(word)
    if found is None:  # an option such as -m, its value, or a deletion
        return False
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return True
    if not _is_path(found["key"]):
        return False
    if override.is_sweep_override():
        return not several
    return not isinstance(override.value(), str | None) or found["value"] != found["value"].strip()
