"""What a run is set up with: seed and threads, a model and data that fit each other."""

from __future__ import annotations

import contextlib

import lightning
import torch
from omegaconf import DictConfig
from PIL import Image

from bcos_vit.config import build
from bcos_vit.data import DataModule
from bcos_vit.data.names import note_once
from bcos_vit.evaluation.classes import adapt_classes
from bcos_vit.models import ViT
from bcos_vit.models.weights import is_weights_file
from bcos_vit.photos import PhotoError

TINY = 64
"""Pixels of a side below which little of a photo is left."""


def seed_and_threads(seed: int, threads: int | None) -> None:
    """Seed every generator, and use so many threads of the CPU (None: as many as it has).

    Raises ``ValueError`` for a seed outside 0 to 2^32 - 1, or fewer than one thread.
    """
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to 4294967295, found {seed!r}")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ValueError(f"threads must be a whole number of at least 1, or null for all, found {threads!r}")
    lightning.seed_everything(seed, workers=True, verbose=False)
    if threads is not None:
        torch.set_num_threads(threads)


def is_trained(config: DictConfig) -> bool:
    """Whether ``config.model`` asks for trained weights."""
    return bool(config.model.get("pretrained")) or is_weights_file(config.model.name)


def model_and_data(config: DictConfig, split: str, *, adapt: bool) -> tuple[ViT, DataModule]:
    """Build what ``config.model`` and ``config.data`` describe; images get the size that the model was made for.

    Parameters
    ----------
    config
        With ``model``, ``data`` and ``image_size``; an ``image_size`` of None is replaced by the model's.
    split
        A part that exists: its class names are read.
    adapt
        For a model that is to be trained: give it as many logits as the data has classes, their order and names, and
        ``image_size``, unless ``config.model`` says otherwise. Trained weights keep their head where its classes are
        those of the data, whatever their order (:func:`~bcos_vit.data.pairing.pair_classes`), and get a fresh one
        otherwise.

    Raises
    ------
    ValueError
        If there is one class only, a model to be trained has another number of classes than the data, ``data.classes``
        does not fit, or images are of another size than ``config.image_size``.
    """
    bare: DataModule = build(config.data, train_transform=None, eval_transform=None)  # transforms need the image size
    classes = tuple(bare.part(split).class_names)
    if len(classes) < 2 and adapt:
        raise ValueError(
            f"the data has one class, {classes[0]!r}, and nothing to tell it from: add another class, such as a folder "
            "'other' with photos of all else"
        )
    trained = is_trained(config)
    wanted = {"num_classes": None if trained else len(classes), "image_size": config.image_size} if adapt else {}
    given = {name: value for name, value in wanted.items() if value is not None and name not in config.model}
    model: ViT = build(config.model, **given)
    if adapt:
        adapt_classes(model, classes, bare.classes, trained, "num_classes" in config.model)
    if model.spec.num_classes < 2:
        raise ValueError("the model has one logit, which is right about every image: give one of two classes or more")
    if config.image_size is None:
        config.image_size = model.spec.image_size
    _note_shrunk_photos(bare, split, config.image_size, config.model.name)
    data: DataModule = build(config.data)
    height, width = data.examples(split, 1).shape[-2:]
    if (height, width) != (config.image_size, config.image_size):
        raise ValueError(
            f"the data's images are {height} x {width} pixels where {config.image_size} were expected: transform them, "
            f"or give image_size={height}"
        )
    if adapt:  # what data.classes says is of the weights as they were
        names = model.class_names or classes
        data.classes = {} if names == classes else dict(zip(classes, names, strict=True))
    return model, data


def _note_shrunk_photos(data: DataModule, split: str, image_size: int, model: str) -> None:
    """Say so where a model of tiny images, such as digits, gets photos of many more pixels than it looks at."""
    with contextlib.suppress(PhotoError):  # which is reported where all images are read
        photo, _ = data.part(split)[0]
        if isinstance(photo, Image.Image) and image_size < TINY and min(photo.size) > 2 * image_size:
            note_once(
                f"photos of {photo.width} x {photo.height} pixels are shrunk to {image_size} x {image_size}, which is "
                f"what {model} is made for: choose another model with model.name=..., or another image_size=..."
            )
