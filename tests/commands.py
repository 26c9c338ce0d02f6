"""What the tests of the command line share: a call of it, and whole results."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from bcos_vit import Explanation

NAMES = ("tabby cat", "wolf", "$x^$", "crane", "Crane")
"""Class names of the small model: one with a blank, one that is mathematics to some, and one for two classes."""


class Said(NamedTuple):
    """How a call ended."""

    status: int
    out: str
    err: str


Command = Callable[..., Said]


def has_nameless_files(folder: Path) -> bool:
    """Whether the system can make a file without a name in ``folder``, asked without the project's help."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY))
    except (AttributeError, OSError):
        return False
    return True


def results(folder: Path) -> dict[str, Explanation]:
    """Explanations in ``folder`` by the names of their files, without suffix; all that lies there must be whole."""
    names = sorted(p.name for p in folder.iterdir())
    assert not [name for name in names if name.startswith(".")]
    explanations = {name.removesuffix(".safetensors"): folder / name for name in names if name.endswith(".safetensors")}
    for picture in folder.glob("*.png"):
        with Image.open(picture, formats=["PNG"]) as image:
            assert np.asarray(image.convert("L")).std() > 10, f"{picture} is blank"
    assert len(names) == len(explanations) + len(list(folder.glob("*.png")))
    return {name: Explanation.load(path).check() for name, path in explanations.items()}


def paired(folder: Path) -> dict[str, Explanation]:
    """As :func:`results`, where every explanation has its picture."""
    found = results(folder)
    assert sorted(found) == sorted(p.name.removesuffix(".png") for p in folder.glob("*.png"))
    return found


def same(one: Explanation, other: Explanation) -> bool:
    """Whether two explanations agree: single numbers to 1e-5, maps to 1e-5 of their largest value."""
    fields, others = one.numpy(), other.numpy()
    return fields.keys() == others.keys() and all(
        np.abs(field - others[name]).max() <= 1e-5 * (np.abs(field).max() if field.ndim else 1)
        for name, field in fields.items()
        if name not in ("relative_residual", "image_share")  # quotients of differences
    )
