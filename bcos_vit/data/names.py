"""Names of folders as text that can be shown and stored, and what there is to say about data on the way."""

from __future__ import annotations

import functools
import os
import sys
import unicodedata
from collections.abc import Collection

from lightning.fabric.utilities.rank_zero import rank_zero_only

NOT_SHOWN = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, lone surrogates, and line and paragraph separators."""


def printable(name: str) -> str:
    r"""A name or path of the system as text that can be shown and stored; files are opened by ``name`` itself.

    Bytes that are no UTF-8 are read as Latin-1. Letters and their accents become one character each (NFC), since
    macOS keeps them apart; control characters, such as a line's end, are written as escapes.

    >>> printable("caf\udce9"), printable("cafe\u0301"), printable("two\nlines")
    ('café', 'café', 'two\\nlines')
    """
    return os.sep.join(map(_as_text, name.split(os.sep)))


def _as_text(name: str) -> str:
    raw = os.fsencode(name)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in NOT_SHOWN else char
        for char in unicodedata.normalize("NFC", text)
    )


def shortened(names: Collection[str], most: int = 8) -> str:
    """The first names in quotes, and how many more there are.

    >>> shortened(["cat", "dog", "eel"], most=2)
    "'cat', 'dog' and 1 more"
    """
    listed = ", ".join(map(repr, list(names)[:most]))
    return listed if len(names) <= most else f"{listed} and {len(names) - most:,} more"


@rank_zero_only
def note(text: str) -> None:
    """Say on stderr, in the first of several processes, what a user should know of the data though nothing is wrong."""
    print(f"note: {text}", file=sys.stderr, flush=True)


note_once = functools.cache(note)
"""The same, but each text only once in a process: a part is opened more than once."""
