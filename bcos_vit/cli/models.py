"""``bcos-vit models``: the zoo with its cards."""

from __future__ import annotations

import argparse

import torch

from bcos_vit.checks import nearest
from bcos_vit.models.vit import ViT
from bcos_vit.models.zoo import CARDS, Card, list_models


def run(given: argparse.Namespace) -> int:
    """List the names that match ``given.pattern``; show the whole card where it is a name."""
    names = list_models(given.pattern)
    if not names:
        raise ValueError(f"no model is named {given.pattern!r}{nearest(given.pattern, CARDS)}")
    print("\n".join(_card(names[0]) if names == [given.pattern] else _table(names)))
    return 0


def parameters(card: Card) -> int:
    """How many numbers the model learns."""
    with torch.device("meta"):
        return sum(p.numel() for p in ViT(card.spec).parameters())


def weights(card: Card) -> str:
    """Where trained weights are, in a word."""
    return "none" if card.source is None else "shipped" if card.source == "shipped" else "published"


def _table(names: list[str]) -> list[str]:
    rows = [("name", "parameters", "image", "positions", "weights", "top-1 %")]
    for name in names:
        card = CARDS[name]
        size = f"{card.spec.image_size} px"
        top1 = "-" if card.top1 is None else f"{card.top1:.2f}"
        rows.append((name, f"{parameters(card) / 1e6:.2f} M", size, card.spec.position, weights(card), top1))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = [
        "",
        "shipped:   create_model(NAME, pretrained=True), bcos-vit explain --model NAME",
        "published: by the B-cos v2 release, with the accuracy that it states; not loaded by name yet",
        "none:      not trained yet",
        "The card of a model: bcos-vit models NAME",
    ]
    return [*lines, *notes]


def _card(name: str) -> list[str]:
    card = CARDS[name]
    spec = {field: value for field, value in vars(card.spec).items() if value not in ((), None)}
    shown = [*card.class_names[:3], *(["..."] if len(card.class_names) > 3 else [])]
    rows = {
        "name": name,
        "parameters": f"{parameters(card):,}",
        "spec": ", ".join(f"{field} {value}" for field, value in spec.items()),
        "classes": f"{len(card.class_names):,}: {', '.join(shown)}",
        "weights": weights(card),
        "file": card.file,
        "SHA-256": card.sha256_prefix if card.sha256_prefix is None else f"{card.sha256_prefix:.<64}",
        "source": card.source,
        "licence": card.licence,
        "top-1": None if card.top1 is None else f"{card.top1:.2f} %",
        "top-5": None if card.top5 is None else f"{card.top5:.2f} %",
        "recipe": card.recipe,
    }
    return [f"{label:<12}{value}" for label, value in rows.items() if value is not None]
