"""Paths as users give them, and names of files that are made of words."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path


def user_path(path: str | os.PathLike[str]) -> Path:
    """The path with ``~`` and ``~user`` at its beginning expanded; where there is no such user, as it is.

    >>> user_path("~/photos") == Path.home() / "photos"
    True
    >>> user_path("photos/~").as_posix()
    'photos/~'
    """
    return Path(os.path.expanduser(path))  # Path.expanduser would fail for an unknown user


def in_a_name(words: str, *, keep: str = "", most: int = 80) -> str:
    """What can be part of a file's name, of at most ``most`` bytes: letters and digits of any script, else dashes.

    >>> in_a_name("Kätzchen, das schläft"), in_a_name("../猫"), in_a_name("v1.5", keep=".")
    ('Kätzchen-das-schläft', '-猫', 'v1.5')
    """
    known = (c if _is_of_a_word(c) or c in keep else " " for c in unicodedata.normalize("NFC", words))
    return re.sub(" +", "-", "".join(known)).encode()[:most].decode(errors="ignore")


def _is_of_a_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character).startswith("M")  # vowels of Hindi are marks


def name_of_model(name: str | os.PathLike[str]) -> str:
    """What a model is called by its name or its file: a run's folder for a file in one, never with a separator.

    >>> name_of_model("bcos_vit_digits"), name_of_model("runs/A/model.safetensors"), name_of_model("weights/mine.pth")
    ('bcos_vit_digits', 'A', 'mine')
    >>> name_of_model("../runs/A/checkpoints/best.ckpt"), name_of_model("runs/A")
    ('A', 'A')
    """
    path = user_path(name)
    if path.suffix in (".safetensors", ".ckpt", ".pth", ".pt"):
        place = Path(os.path.abspath(path)).parent
        if path.stem in ("best", "last") and place.name == "checkpoints":
            place = place.parent
        elif path.stem != "model":
            place = path.with_suffix("")
        path = place
    called = Path(os.path.abspath(path)).name
    return in_a_name(called, keep="._-").lstrip(".") or "model"
