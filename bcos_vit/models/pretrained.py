"""Trained weights by name: fetched once, converted once to safetensors, and read from there.

For ``NAME.pth`` of the release the cache holds ``NAME.pth`` with ``NAME.pth.sha256``, ``NAME.safetensors`` (ours, with
the spec inside) and a manifest ``NAME.json``, which is written last and holds the SHA-256 of both. Several processes
wait for each other at ``NAME.pth.lock``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from bcos_vit.atomic import write_whole
from bcos_vit.models.cards import CARDS, Card, expected_shapes
from bcos_vit.models.download import download, expected_hash, keep_hash, sha256, verify
from bcos_vit.models.shipped import shipped_weights
from bcos_vit.models.spec import ViTSpec
from bcos_vit.models.vit import ViT
from bcos_vit.models.weights import SUFFIX, SUFFIXES, load_model, note_licence, save_model
from bcos_vit.paths import user_path

CACHE, MIRROR, OFFLINE = "BCOS_VIT_CACHE", "BCOS_VIT_MIRROR", "BCOS_VIT_OFFLINE"


def cache_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """Where downloads are kept: the folder given, else ``BCOS_VIT_CACHE``, else torch hub's folder of checkpoints."""
    return user_path(given or os.environ.get(CACHE) or Path(torch.hub.get_dir()) / "checkpoints")


def is_offline(given: bool | None = None) -> bool:
    """Whether nothing may be fetched: as given, else if ``BCOS_VIT_OFFLINE`` is set to anything but 0 or "false"."""
    return os.environ.get(OFFLINE, "").lower() not in ("", "0", "false") if given is None else given


def load_pretrained(
    name: str,
    card: Card,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    mirror: str | None = None,
    offline: bool | None = None,
) -> ViT:
    """The trained model of a card, with its class names; arguments as of :func:`~bcos_vit.create_model`.

    Raises
    ------
    ValueError
        If there are no trained weights, or files in the cache are not those that were published.
    OSError
        If the weights are not there and cannot be fetched, in a sentence that says what to fetch and where to put it.
    """
    if card.source == "shipped":
        shipped = load_model(shipped_weights(name), card.spec)
        shipped.about = {"name": name, "licence": card.licence} | shipped.about
        return shipped
    if card.file is None or card.source is None or card.sha256_prefix is None:
        raise ValueError(
            f"{name} has no trained weights, nobody has trained it yet: train it, or take random weights, with "
            "pretrained=False (evaluate.py: model.pretrained=false; bcos-vit: --random-weights 0)"
        )
    if card.file in ("", ".", "..") or Path(card.file).name != card.file:
        raise ValueError(f"the card of {name} must name a file without folders, found {card.file!r}")
    file = cache_folder(cache_dir) / card.file
    if (model := _converted(file, card)) is not None:
        return model
    address = f"{(mirror or os.environ.get(MIRROR) or card.source).rstrip('/')}/{card.file}"
    if file.exists() and not file.is_file():
        raise FileExistsError(f"{file} is in the way of the weights of {name}: remove it")
    if not file.is_file() and is_offline(offline):
        raise FileNotFoundError(
            f"the weights of {name} are not in {file.parent}, and nothing may be fetched ({OFFLINE}, or offline=True): "
            f"{_elsewhere(address, file)}"
        )
    if file.is_file() and not os.access(file.parent, os.W_OK):  # a cache that others look after
        return _original(name, file, card, verify(file, card.sha256_prefix))
    with _only_process(file):
        if (model := _converted(file, card)) is not None:  # by another process, meanwhile
            return model
        if not file.is_file():
            _fetch(name, address, file, card)
        digest = verify(file, card.sha256_prefix)
        keep_hash(file, digest)
        model = _original(name, file, card, digest)
        if file.suffix != SUFFIX:
            _convert(model, file, digest)
        return model


def load_file(path: Path, spec: ViTSpec | None = None) -> ViT:
    """As :func:`~bcos_vit.models.weights.load_model`; a file of the release is known by its name and SHA-256.

    Of a folder, as of ``save_pretrained`` or a training run, the file ``model.safetensors`` is meant.
    """
    if path.is_dir():
        path = _in_folder(path)
    model = load_model(path, spec)
    for name, card in CARDS.items():
        if card.file == path.name and card.sha256_prefix and model.spec == card.spec and not model.about:
            digest = sha256(path)
            if digest.startswith(card.sha256_prefix):
                _describe(model, name, card, digest)
    return model


def _in_folder(folder: Path) -> Path:
    """The file ``model.safetensors`` of a folder; a ``FileNotFoundError`` names another where it is missing."""
    path = folder / "model.safetensors"
    others = sorted(p for pattern in ("*", "*/*") for p in folder.glob(pattern) if p.name.endswith(SUFFIXES))
    if not path.exists() and others:
        raise FileNotFoundError(f"there is no weights file {path}, but the folder holds {others[0]}: give that path")
    return path


@contextmanager
def _only_process(file: Path) -> Iterator[None]:
    """Wait until no other process works on ``file``, whose folder is made if it is not there."""
    lock = FileLock(file.with_name(f"{file.name}.lock"), mode=0o666)  # for others who share the cache
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        held = lock.acquire()
    except OSError as error:
        raise type(error)(
            f"cannot keep weights in {file.parent}: {error.strerror}; name another folder with {CACHE} or cache_dir"
        ) from error
    with held:
        yield


def _elsewhere(address: str, file: Path) -> str:
    return f"fetch {address} elsewhere and put it into {file.parent}"


def _fetch(name: str, address: str, file: Path, card: Card) -> None:
    # twice what the numbers take in float32, and room for their names
    most = 8 * sum(shape.numel() for shape in expected_shapes(card.spec).values()) + 2**20
    assert card.sha256_prefix is not None
    try:
        download(address, file, card.sha256_prefix, most=most)
    except OSError as error:
        raise OSError(
            f"the weights of {name} cannot be fetched from {address}: {error}; try again, "
            f"{_elsewhere(address, file)}, or name a mirror with {MIRROR}"
        ) from error


def _original(name: str, file: Path, card: Card, digest: str) -> ViT:
    """The model in the file as it was published."""
    model = load_model(file, card.spec)
    if not model.about:
        _describe(model, name, card, digest)
    return model


def _describe(model: ViT, name: str, card: Card, digest: str) -> None:
    """Say of published weights what their card says, since their file says nothing."""
    model.class_names = card.class_names
    stated = {"top1": card.top1, "top5": card.top5}
    model.about = {"name": name, "source": card.source, "sha256": digest, "licence": card.licence}
    model.about |= {"recipe": card.recipe, "stated": stated}
    note_licence(model.about, name)


def _paths(file: Path) -> tuple[Path, Path]:
    return file.with_suffix(SUFFIX), file.with_suffix(".json")


def _convert(model: ViT, file: Path, digest: str) -> None:
    converted, manifest = _paths(file)
    save_model(model, converted)
    content = {"source": file.name, "source_sha256": digest, "file": converted.name, "sha256": sha256(converted)}
    write_whole(manifest, json.dumps(content | {"licence": model.about.get("licence")}, indent=2) + "\n")


def _converted(file: Path, card: Card) -> ViT | None:
    """The model in the converted file; None if there is none yet. ``ValueError`` if it is not what was converted."""
    converted, manifest = _paths(file)
    if file.suffix == SUFFIX or not (manifest.is_file() and converted.is_file()):
        return None
    assert card.sha256_prefix is not None
    expected = expected_hash(file, card.sha256_prefix)
    try:
        content: Any = json.loads(manifest.read_text(encoding="utf-8"))
        source, digest = str(content["source_sha256"]), str(content["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError):
        source = digest = ""
    if not source.startswith(expected) or sha256(converted) != digest:
        raise ValueError(f"{converted} is not what was converted from {file.name}: remove it and {manifest.name}")
    return load_model(converted, card.spec)
