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
    expanded = [_expanded(word) for word in words]
    wrong = [word for word in expanded if _is_misread(word, several)]
    if wrong:
        line = shlex.join(["python", program, *(_quoted(word) if word in wrong else word for word in expanded)])
        raise ValueError(
            f"{' and '.join(wrong)} cannot be read, since Hydra gives signs such as = , ( ) [ ] {{ }} and numbers a "
            f"meaning of their own and takes no others; quotes in quotes keep it as it is, type: {line}"
        )
    return expanded


def _expanded(word: str) -> str:
    found = _WORD.fullmatch(word)
    if found is None or not found["value"].startswith("~"):
        return word
    return _quoted(f"{found['key']}={os.path.expanduser(found['value'])}")


def _quoted(word: str) -> str:
    """The word with its value in quotes, in which Hydra takes it as text; ``${name}`` refers to a value as before."""
    key, _, value = word.partition("=")
    value = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + (found[2] and '\\"'), value)
    return f'{key}="{value}"'


def _is_misread(word: str, several: bool) -> bool:
    found = _WORD.fullmatch(word)
    if found is None:  # an option such as -m, its value, or a deletion
        return False
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return True
    if found["key"].lstrip("+") not in PATHS:
        return False
    if override.is_sweep_override():
        return not several
    return not isinstance(override.value(), str | None) or found["value"] != found["value"].strip()
