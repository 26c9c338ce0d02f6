"""Optional dependencies: a missing one is answered with the line that installs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Import inside: a module that is not installed becomes an ``ImportError`` naming the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "bcos_vit":
            raise
        raise ImportError(f"{error.name} is not installed: pip install 'bcos_vit[{extra}]'") from error
