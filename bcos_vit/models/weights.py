"""Weights in and out: our own files (safetensors with the spec inside), checkpoints, and published state dicts.

A weights file of ours holds the tensors of ``model.state_dict()``; its metadata holds ``format`` ("bcos_vit 1"),
``spec`` (JSON of the :class:`ViTSpec`), ``class_names`` (JSON, or "null") and ``about`` (JSON, how it came to be).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialise
from torch import Tensor, nn

from bcos_vit.atomic import write_whole
from bcos_vit.models.about import warn_if_not_fine_tuned
from bcos_vit.models.cards import CARDS, recognise
from bcos_vit.models.published import from_published, to_published
from bcos_vit.models.reading import is_archive, read_archive, read_safetensors, reason, shown, unique
from bcos_vit.models.spec import ViTSpec
from bcos_vit.models.vit import ViT, require_vit
from bcos_vit.paths import user_path

__all__ = [
    "from_published",
    "is_weights_file",
    "load_model",
    "note_licence",
    "read_checkpoint",
    "save_model",
    "to_published",
]

FORMAT = "bcos_vit 1"
SUFFIX = ".safetensors"
SUFFIXES = (SUFFIX, ".ckpt", ".pth", ".pt")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SHOWN = 3  # keys named in a sentence
PUBLISHED = re.compile(r"(0\.)?(to_patch_embedding|transformer|linear_head)\.")

_log = logging.getLogger("bcos_vit")


def is_weights_file(name: str | os.PathLike[str]) -> bool:
    """Whether ``name`` is meant as a path: a path object, text with a slash or a suffix, or what lies in this folder.

    A name of the zoo is never a path.
    """
    if not isinstance(name, str):
        return True
    is_path = "/" in name or os.sep in name or bool(Path(name).suffix) or (name != "" and user_path(name).exists())
    return is_path and name not in CARDS


def save_model(
    model: nn.Module, path: str | os.PathLike[str], *, about: Mapping[str, Any] | None = None, replace: bool = True
) -> None:
    """Write weights, spec and class names to ``path`` (``.safetensors``), whole or not at all.

    >>> import tempfile, bcos_vit
    >>> model = bcos_vit.create_model("bcos_vit_digits")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(model, f"{folder}/mine.safetensors")
    ...     again = bcos_vit.create_model(f"{folder}/mine.safetensors")
    >>> again.spec == model.spec
    True

    Parameters
    ----------
    model
        A :class:`ViT`, wrapped or not.
    about
        Plain values that say how the weights came to be, kept in the file; None: ``model.about``.
    replace
        Whether a file that is there is replaced; False: ``FileExistsError``.

    Raises
    ------
    TypeError
        If ``model`` is none of this project's.
    ValueError
        If ``path`` does not end in ``.safetensors``, or weights are not finite.
    OSError
        If it cannot be written.
    """
    path = user_path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"weights files end in {SUFFIX}, found {os.fspath(path)}")
    vit = require_vit(model)
    if not all(tensor.isfinite().all() for tensor in vit.state_dict().values()):
        raise ValueError(f"the weights hold NaN or infinity, and are not written to {os.fspath(path)}")
    described = {
        "spec": dataclasses.asdict(vit.spec),
        "class_names": None if vit.class_names is None else list(vit.class_names),
        "about": dict(vit.about if about is None else about),
    }
    metadata = {"format": FORMAT} | {name: json.dumps(value) for name, value in described.items()}
    tensors = {name: tensor.detach().contiguous() for name, tensor in vit.state_dict().items()}
    write_whole(path, serialise(tensors, metadata), replace=replace)


def load_model(path: str | os.PathLike[str], spec: ViTSpec | None = None) -> ViT:
    """Read a model from a file of weights, without running anything that the file may hold.

    Reads files of :func:`save_model`, checkpoints of a training run, and, in ``.pth``, ``.ckpt`` or ``.safetensors``
    files, state dicts with our keys or those of the B-cos v2 release, bare or in a checkpoint of its training. A note
    of the licence, where the file has one, is logged as a warning, and so is a mark of weights that are not fine-tuned.

    Parameters
    ----------
    path
        The file. Its first bytes, not its suffix, say what it is.
    spec
        What the model is, needed for a state dict with our keys. Published state dicts are recognised by their shapes;
        their logit bias, which no state dict holds, is taken to be log(1/(K-1)).

    Returns
    -------
    ViT
        In evaluation mode, with ``class_names`` and ``about`` as far as the file has them.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be read safely, does not say what it is, is not what ``spec`` says, or holds tensors that are
        missing, unexpected, of another shape or dtype than the model's, or not finite.
    """
    path = user_path(path)
    content, found = _read(path), spec
    try:
        if content.spec is not None:
            found = ViTSpec(**content.spec)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} holds no usable spec: {reason(error)}") from error
    if found is None and content.published:  # ours are alike for several kinds of positions
        found = recognise(_ours(content, path))
    if found is None:
        raise ValueError(
            f"{path} does not say which model its weights belong to, and it is none of the published ones: name it, "
            "as in `bcos-vit convert IN OUT --model NAME` or load_model(path, spec)"
        )
    if spec is not None and found != spec:
        fields = (f.name for f in dataclasses.fields(spec) if getattr(found, f.name) != getattr(spec, f.name))
        raise ValueError(f"{path} holds a model of another {next(fields)}")
    model = _restore(content, found, path)
    names = content.class_names
    if names is not None and not (_is_texts(names) and len(names) == found.num_classes):
        raise ValueError(f"{path} holds no usable class names: {found.num_classes} are needed")
    model.class_names = None if names is None else tuple(names)
    model.about = content.about
    note_licence(model.about, path.name)
    warn_if_not_fine_tuned(model.about, model.spec, path.name)
    return model


def note_licence(about: Mapping[str, Any], name: str) -> None:
    """Log, as a warning, under which terms weights may be used, where it is known."""
    if isinstance(licence := about.get("licence"), str):
        _log.warning("%s: licence: %s", name, shown(licence))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of a training run, read without running anything that the file may hold.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be read safely, or was not made by ``bcos_vit.training``.
    """
    content = read_archive(path) if is_archive(path) else {}
    kept: dict[str, Any] = content if isinstance(content, dict) else {}
    parts = kept.get("hyper_parameters")
    missing = {"state_dict", "hyper_parameters", "class_names"} - kept.keys()
    missing |= {"spec", "recipe"} - parts.keys() if isinstance(parts, dict) else set()
    if missing:
        raise ValueError(f"{path} is no checkpoint of bcos_vit's training: it lacks {', '.join(sorted(missing))}")
    return kept


@dataclass
class _Content:
    """What a file says, before it is believed."""

    state: dict[str, Tensor]
    """Under our keys or the published ones."""
    spec: dict[str, Any] | None = None
    class_names: Any = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def published(self) -> bool:
        """Whether they are the release's."""
        return any(PUBLISHED.match(key) for key in self.state)


def _read(path: Path) -> _Content:
    content = _from_archive(read_archive(path)) if is_archive(path) else _from_safetensors(path)
    for key, tensor in content.state.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"{path} is no state dict: {shown(repr(key))} is no tensor")
    if not content.state:
        raise ValueError(f"{path} holds no weights")
    if sum(tensor.nbytes for tensor in content.state.values()) > path.stat().st_size:
        raise ValueError(f"{path} holds tensors that are larger than the file")
    return content


def _ours(content: _Content, path: Path) -> dict[str, Tensor]:
    """The state under our keys."""
    try:
        return from_published(content.state) if content.published else content.state
    except ValueError as error:
        raise ValueError(f"{path} holds no weights of a known kind: {reason(error)}") from error


def _from_safetensors(path: Path) -> _Content:
    state, metadata = read_safetensors(path)
    if "format" not in metadata or metadata["format"] == "pt":  # which others write
        return _Content(state)
    if metadata["format"] != FORMAT:
        raise ValueError(f"{path} is no weights file of bcos_vit: its format is {shown(metadata['format'])!r}")
    try:
        parts = (metadata[name] for name in ("spec", "class_names", "about"))
        spec, names, about = (json.loads(part, object_pairs_hook=unique) for part in parts)
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} holds no usable spec: {type(error).__name__}, {reason(error)}") from error
    if not isinstance(spec, dict) or not isinstance(about, dict):
        raise ValueError(f"{path} holds no usable spec, but {shown(repr(spec))}")
    return _Content(state, spec, names, about)


def _from_archive(content: Any) -> _Content:
    """A state dict, a checkpoint of our training, or one of the reference's, whose model is called ``model``."""
    if not isinstance(content, dict) or not isinstance(content.get("state_dict", content), dict):
        return _Content({})
    if "state_dict" not in content:
        return _Content(content)
    state = content["state_dict"]
    averaged = [key for key in state if isinstance(key, str) and key.startswith("ema.")]
    if averaged:
        _log.warning("the checkpoint's averaged weights (%s, ...) are left out", shown(averaged[0]))
    kept = {key: tensor for key, tensor in state.items() if key not in averaged}
    if all(isinstance(key, str) and key.startswith("model.") for key in kept):
        kept = {key.removeprefix("model."): tensor for key, tensor in kept.items()}
    parts = content.get("hyper_parameters")
    if not isinstance(parts, dict) or not isinstance(parts.get("spec"), dict):
        return _Content(kept)
    about = parts["about"] if isinstance(parts.get("about"), dict) else {}
    return _Content(kept, parts["spec"], content.get("class_names"), about | {"recipe": parts.get("recipe")})


def _restore(content: _Content, spec: ViTSpec, path: Path) -> ViT:
    """A model with the tensors of ``content``, once it is known that they are the right ones."""
    state, ours = content.state, _ours(content, path)
    if 6 * spec.depth + len(spec.stem) > max(600, len(state)):  # before so many blocks are made
        raise ValueError(f"{path} holds {len(state)} tensors, too few for {spec.depth} blocks")
    try:
        with torch.device("meta"):
            model = ViT(spec)
        expected = to_published(model) if content.published else model.state_dict()
    except (RuntimeError, TypeError, ValueError) as error:  # more numbers than can be counted, or none of the release
        raise ValueError(f"{path} does not fit its model: {reason(error)}") from error
    shapes = {key: tuple(tensor.shape) for key, tensor in expected.items()}
    wrong = {key: tuple(state[key].shape) for key in shapes.keys() & state.keys() if state[key].shape != shapes[key]}
    faults = {
        "missing": sorted(shapes.keys() - state.keys()),
        "unexpected": sorted(shown(repr(key)[1:-1], 80) for key in state.keys() - shapes.keys()),
        "of another shape": sorted(f"{key} {found} for {shapes[key]}" for key, found in wrong.items()),
    }
    if any(faults.values()):
        told = (f"{len(keys)} {kind}: {', '.join(keys[:SHOWN])}" for kind, keys in faults.items() if keys)
        raise ValueError(f"{path} does not fit its model, tensors are {'; '.join(told)}")
    dtypes = {tensor.dtype for tensor in state.values()}
    if len(dtypes) > 1 or not dtypes <= set(DTYPES):
        raise ValueError(f"{path} holds {', '.join(sorted(map(str, dtypes)))}: weights have one floating dtype")
    for key, tensor in state.items():
        if not torch.stack(tensor.aminmax()).isfinite().all():
            raise ValueError(f"{path} holds NaN or infinite weights, as in {key}")
    copies = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in ours.items()}
    model.load_state_dict(copies, assign=True)
    return model.eval()


def _is_texts(found: object) -> bool:
    return isinstance(found, list) and all(isinstance(name, str) for name in found)
