"""Every weights file that must be refused, by a name, and what is wrong with it in the words of the refusal."""

from __future__ import annotations

from collections.abc import Callable

import hostile_pickles
import hostile_tensors
import hostile_zips
from hostile_pickles import Case
from releases import published

GOOD: dict[str, Callable[[], bytes]] = {
    "pth": published,
    "ckpt": hostile_tensors.checkpoint,
    "safetensors": hostile_tensors.ours,
}


def cut(kind: str, place: int) -> bytes:
    """A good file that ends too early: after its first bytes, somewhere between, or before its last."""
    content = GOOD[kind]()
    near = (1, 3, 4, 7, 8, 9, len(content) - 23, len(content) - 22, len(content) - 21, len(content) - 1)
    return content[: near[place] if place < len(near) else len(content) * (place - len(near) + 1) // 11]


CUT: dict[str, Case] = {
    f"cut-{kind}-{n}": (lambda kind=kind, n=n: cut(kind, n), "") for kind in GOOD for n in range(20)
}
CASES: dict[str, Case] = hostile_pickles.CASES | hostile_zips.CASES | hostile_tensors.CASES | CUT
"""Refused in the same words whether or not it is known what they should be."""
RELEASES: dict[str, Case] = hostile_tensors.RELEASES
"""Refused in these words where a card says what they should be."""
