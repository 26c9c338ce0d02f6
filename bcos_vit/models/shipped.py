"""The small trained models that come with the project: weights and cards in ``checkpoints/``, in the wheel too."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve()
SHIPPED = ("bcos_vit_digits", "standard_vit_digits", "bcos_vit_shapes", "standard_vit_shapes")
FOLDERS = (_HERE.parents[1] / "checkpoints", _HERE.parents[2] / "checkpoints")
"""Where they lie in an installed package, and in a checkout."""


def shipped_card(name: str) -> dict[str, Any] | None:
    """What was kept of the training of ``name`` (command, seed, results, versions, hash); None if it cannot be read."""
    card = next((p for folder in FOLDERS if (p := folder / f"{name}.json").is_file()), None)
    try:
        found = None if card is None else json.loads(card.read_text(encoding="utf-8"))
    except ValueError:
        return None
    whole = isinstance(found, dict) and found.keys() >= {"command", "data_licence", "results", "sha256"}
    return found if whole else None


def shipped_weights(name: str) -> Path:
    """The weights file of a shipped model, after its SHA-256 has been compared with the card's.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    ValueError
        If it is not the file that the card describes.
    """
    card = shipped_card(name)
    path = next((p for folder in FOLDERS if (p := folder / f"{name}.safetensors").is_file()), None)
    if card is None or path is None:
        raise FileNotFoundError(
            f"the shipped weights of {name} or their card are missing or damaged in {FOLDERS[0]}: install it again"
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != card["sha256"]:
        raise ValueError(f"{path} is damaged: its SHA-256 is {found[:10]}..., the card says {card['sha256'][:10]}...")
    return path
