"""What a run does besides its work: a picture, a line in a log service, a note. None of these may end it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def side_effect(what: str) -> Iterator[None]:
    """Warn where the body raises, and go on behind it.

    Parameters
    ----------
    what
        What is then missing, as the beginning of a sentence: ``"the picture of epoch 3"``.
    """
    try:
        yield
    except Exception as error:
        reason = printable(f"{type(error).__name__}: {error}").splitlines()[0]
        warnings.warn(f"{what} is missing, the run goes on without it: {reason}", stacklevel=3)


def printable(text: str) -> str:
    """The text with an escape in place of what no terminal takes: half a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode()
