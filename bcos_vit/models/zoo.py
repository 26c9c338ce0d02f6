"""The zoo: every architecture by name, and the one call that builds it, loads it or fits it to other data."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
from typing import Any

import torch

from bcos_vit.checks import nearest, reject_unknown
from bcos_vit.models.about import MARK, switched, warn_if_not_fine_tuned
from bcos_vit.models.cards import CARDS, IMAGENET, Card, expected_shapes
from bcos_vit.models.pretrained import load_file, load_pretrained
from bcos_vit.models.spec import ViTSpec, spec_fields
from bcos_vit.models.vit import ViT
from bcos_vit.models.weights import is_weights_file
from bcos_vit.paths import user_path
from bcos_vit.preprocessing import Preprocessing

__all__ = ["CARDS", "IMAGENET", "Card", "create_model", "list_models", "preprocessing", "ready"]


def list_models(pattern: str = "*") -> list[str]:
    """Names of the zoo that match a shell pattern, sorted.

    >>> list_models("*_digits")
    ['bcos_vit_digits', 'standard_vit_digits']
    """
    return sorted(fnmatch.filter(CARDS, pattern))


def preprocessing(image_size: int) -> Preprocessing:
    """A photo -> (3, image_size, image_size) RGB in [0, 1]: resize the shorter side bilinearly, crop the centre."""
    return Preprocessing(image_size)


def create_model(
    name: str | os.PathLike[str],
    pretrained: bool = False,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    mirror: str | None = None,
    offline: bool | None = None,
    **overrides: Any,
) -> ViT:
    """Build a model of the zoo, load its trained weights, or read a trained one from a file.

    >>> model = create_model("bcos_vit_digits", pretrained=True)
    >>> model.spec.position, model.class_names[:3]
    ('rope', ('0', '1', '2'))
    >>> create_model("bcos_vit_digits", pretrained=True, num_classes=4).spec.bias  # log(1/3), over a fresh head
    -1.09...
    >>> create_model("bcos_vitc_ti_patch1_14", num_classes=37).spec.bias  # log(1/36)
    -3.58...

    Parameters
    ----------
    name
        A name of :func:`list_models`, or the path of a file with weights (:func:`~bcos_vit.models.weights.load_model`
        says which): one of ``save_model``, a ``.ckpt`` of a training run, a published ``.pth``; or of a folder with
        ``model.safetensors``, such as that of a training run.
    pretrained
        Load trained weights. Those of ``bcos_vit_digits``, ``bcos_vit_shapes`` and their twins ``standard_vit_*`` come
        with the package; those of the B-cos v2 release are downloaded once, verified, converted to safetensors and
        kept. Asking a name without weights for them is an error, never random weights. A file is trained anyway.
    cache_dir, mirror, offline
        For downloads: the folder where they are kept, the address that replaces the release's, and whether nothing
        may be fetched. None: the environment's ``BCOS_VIT_CACHE`` (else torch hub's folder), ``BCOS_VIT_MIRROR`` and
        ``BCOS_VIT_OFFLINE``.
    overrides
        Any field of :class:`ViTSpec`. With trained weights, those that change no weight's shape: ``num_classes``, which
        puts an untrained head in place, with the logit bias that belongs to it or the ``logit_bias`` given;
        ``image_size``; and, for a model that is to be fine-tuned, others, such as ``downsample="blurred"``. Of these
        ``about["not_fine_tuned"]`` keeps what the weights were trained with, a warning is logged, and files, cards and
        the commands' outputs say so until the model has been trained.

    Returns
    -------
    ViT
        In evaluation mode, with ``spec``, ``transform``, ``class_names`` and ``about``.

    Raises
    ------
    ValueError
        For an unknown name, with the nearest one, an impossible spec, a name without trained weights, or a file that
        is not what it should be.
    TypeError
        For an unknown override, with the nearest field, one that changes the shape of trained weights, or a name that
        is neither text nor path.
    OSError
        For a path that is no file, or weights that cannot be fetched.
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"a model is asked for by its name or its file's path, found {name!r}")
    reject_unknown("override", overrides, spec_fields())
    if is_weights_file(name):
        return ready(load_file(user_path(name)), overrides, os.fspath(name))
    name = os.fspath(name)
    if name not in CARDS:
        raise ValueError(f"no model is named {name!r}{nearest(name, CARDS)}")
    card = CARDS[name]
    if pretrained:
        model = load_pretrained(name, card, cache_dir=cache_dir, mirror=mirror, offline=offline)
        return ready(model, overrides, f"the trained {name}")
    model = ViT(dataclasses.replace(card.spec, **overrides))
    model.class_names = card.class_names if model.spec.num_classes == card.spec.num_classes else None
    return ready(model, {}, name)


def ready(model: ViT, overrides: dict[str, Any], owner: str) -> ViT:
    """Fit a trained model to ``overrides`` (see :func:`create_model`), with the preprocessing of its image size."""
    if overrides.get("num_classes", model.spec.num_classes) != model.spec.num_classes:
        model.reset_classifier(overrides["num_classes"], overrides.get("logit_bias"))
    spec = dataclasses.replace(model.spec, **overrides)
    if spec == model.spec:
        return model.eval()
    if expected_shapes(spec) != expected_shapes(model.spec):
        field = _misfit(model.spec, spec)
        kept = getattr(model.spec, field)
        raise TypeError(f"{owner} holds its own spec and weights, with {field} {kept!r}: drop {field}")
    with torch.device("meta"):
        fitted = ViT(spec)
    fitted.load_state_dict(model.state_dict(), assign=True)
    fitted.class_names, fitted.about = model.class_names, switched(model.about, model.spec, spec)
    if fitted.about.get(MARK) != model.about.get(MARK):
        warn_if_not_fine_tuned(fitted.about, spec, owner)
    return fitted.eval()


def _misfit(before: ViTSpec, after: ViTSpec) -> str:
    """The first field that changes the shape of a weight, by itself or, where none does, together with others."""
    changed = [name for name in spec_fields() if getattr(before, name) != getattr(after, name)]
    for name in changed:
        try:
            alone = dataclasses.replace(before, **{name: getattr(after, name)})
        except ValueError:  # possible together with others only
            continue
        if expected_shapes(alone) != expected_shapes(before):
            return name
    return changed[0]
