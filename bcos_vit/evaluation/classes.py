"""The classes of a model that is to be trained: those of the data, in their order."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bcos_vit.data.names import note
from bcos_vit.data.pairing import PairingError, pair_classes
from bcos_vit.models import ViT


def adapt_classes(
    model: ViT, classes: tuple[str, ...], said: dict[str, str | int], trained: bool, logits_given: bool
) -> None:
    """Give a model that is to be trained the classes of the data, in their order."""
    if said and not trained:
        raise ValueError(
            "data.classes pairs the data with the classes of trained weights, but these are to be trained from "
            "scratch: leave it out, and name the folders as the classes shall be called"
        )
    if trained and not (logits_given and model.class_names is None):
        _adapt_head(model, classes, said, logits_given)
    if model.spec.num_classes != len(classes):
        raise ValueError(f"the data has {len(classes)} classes, but the model {model.spec.num_classes} logits")
    names = model.class_names if trained else None
    model.class_names = classes if names is None or len(set(names)) < len(names) else names


def _adapt_head(model: ViT, classes: tuple[str, ...], said: dict[str, str | int], logits_given: bool) -> None:
    """Bring the head's classes into the order of the data's; put a fresh head where they are others."""
    known, count = model.class_names, model.spec.num_classes
    try:
        pairing = pair_classes(classes, known, count, said=said)
    except PairingError:
        if said:
            raise
        pairing = None
    if pairing is not None and sorted(pairing.numbers) == list(range(count)):
        for text in pairing.notes:
            note(text)
        _order_classes(model, pairing.numbers)
    elif said:
        raise ValueError(
            f"data.classes gives a class of the weights to each of the data's, but their head has {count} classes, "
            f"not just these {len(classes)}: leave it out to learn a new head"
        )
    elif not (logits_given and count != len(classes)):
        model.reset_classifier(len(classes))
        print("note: a new head, the classes of the weights are not those of the data", flush=True)


def _order_classes(model: ViT, numbers: Sequence[int]) -> None:
    """Let logit n be what logit ``numbers[n]`` was, with its name."""
    order = torch.tensor(numbers)
    with torch.no_grad():
        for tensor in model.head.classify.parameters():  # each class has as many rows as MaxOut takes, one by the other
            tensor.copy_(tensor.unflatten(0, (len(numbers), -1))[order.to(tensor.device)].flatten(0, 1))
    if model.class_names is not None:
        model.class_names = tuple(model.class_names[number] for number in numbers)
