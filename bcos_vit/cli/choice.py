"""What a command is about: a trained model by name or file, or on request an untrained one, and the device it is on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bcos_vit.models import ViT, create_model
from bcos_vit.models.about import not_fine_tuned
from bcos_vit.models.weights import is_weights_file

TRAINED = "trained weights"


def chosen_model(given: argparse.Namespace) -> tuple[ViT, str]:
    """The model of ``--model`` and ``--random-weights``, and what to say about its weights in every output."""
    seed = given.random_weights
    if seed is None:
        model = create_model(given.model, pretrained=True)
        return model, not_fine_tuned(model.about, model.spec) or TRAINED
    if is_weights_file(given.model):
        raise ValueError(f"{given.model} is a file with weights: drop --random-weights")
    if not 0 <= seed < 2**64:
        raise ValueError(f"--random-weights takes a seed from 0 to 2**64 - 1, found {seed}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return create_model(given.model), f"random weights, seed {seed}"


def chosen_device(given: argparse.Namespace) -> str:
    """The device of ``--device``, or else an accelerator if there is one."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return given.device or ("cpu" if accelerator is None else accelerator.type)


@contextmanager
def trying_out(device: str) -> Iterator[None]:
    """What fails inside becomes a ``ValueError`` that says that ``device`` cannot be used."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error
