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
    show = markdown if given.markdown else _card if names == [given.pattern] else _table
    print("\n".join(show(names)))
    return 0


def markdown(names: list[str]) -> list[str]:
    """The table of the README."""
    head = ("name", "parameters (M)", "width", "blocks", "heads", "positions", "weights", "top-1 (%)", "top-5 (%)")
    rows = [head, ("---",) * len(head)]
    for name in names:
        card, spec = CARDS[name], CARDS[name].spec
        sizes = (f"{parameters(card) / 1e6:.2f}", str(spec.width), str(spec.depth), str(spec.heads), spec.position)
        rows.append((f"`{name}`", *sizes, weights(card), _percent(card.top1), _percent(card.top5)))
    return [f"| {' | '.join(row)} |" for row in rows]


def parameters(card: Card) -> int:
    """How many numbers the model learns."""
    with torch.device("meta"):
        return sum(p.numel() for p in ViT(card.spec).parameters())


def weights(card: Card) -> str:
    """Where trained weights are, in a word."""
    return "none" if card.source is None else "shipped" if card.source == "shipped" else "published"


def _percent(found: float | None) -> str:
    return "-" if found is None else f"{found:.2f}"


def _table(names: list[str]) -> list[str]:
    rows = [("name", "parameters", "image", "positions", "weights", "top-1 %")]
    for name in names:
        card = CARDS[name]
        size = f"{card.spec.image_size} px"
        numbers = f"{parameters(card) / 1e6:.2f} M"
        rows.append((name, numbers, size, card.spec.position, weights(card), _percent(card.top1)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = [
        "",
        "create_model(NAME, pretrained=True), bcos-vit explain --model NAME:",
        "shipped:   with the package",
        "published: by the B-cos v2 release, with the accuracy that it states; downloaded once",
        "none:      not trained yet",
        "The card of a model: bcos-vit models NAME",
    ]
    return [*lines, *notes]


def _card(names: list[str]) -> list[str]:
    (name,) = names
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
        "images": card.preprocessing,
    }
    return [f"{label:<12}{value}" for label, value in rows.items() if value is not None]
