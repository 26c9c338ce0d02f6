"""Weights in and out: our own files (safetensors with the spec inside) and the published state dicts.

A weights file of ours holds the tensors of ``model.state_dict()``; its metadata holds ``format`` ("bcos_vit 1"),
``spec`` (JSON of the :class:`ViTSpec`), ``class_names`` (JSON, or "null") and ``about`` (JSON, how it came to be).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from bcos_vit.atomic import write_whole
from bcos_vit.models.spec import ViTSpec
from bcos_vit.models.vit import ViT
from bcos_vit.wrappers import unwrap

FORMAT = "bcos_vit 1"
SUFFIX = ".safetensors"
CHECKPOINT = ".ckpt"  # of a training run

# Module of ours, published module, and whether the published B-cos layer keeps its weight in a ".linear" of its own.
# Queries, keys and values, one map in the release, are dealt with apart.
_MODULES = (
    ("tokens.project", "to_patch_embedding.linear", True),
    ("blocks.{}.attention.norm", "transformer.encoder_{}.attn.norm", False),
    ("blocks.{}.attention.project", "transformer.encoder_{}.attn.to_out", True),
    ("blocks.{}.mlp.norm", "transformer.encoder_{}.ff.net.norm", False),
    ("blocks.{}.mlp.expand", "transformer.encoder_{}.ff.net.linear1", True),
    ("blocks.{}.mlp.contract", "transformer.encoder_{}.ff.net.linear2", True),
    ("head.norm", "linear_head.norm", False),
    ("head.classify", "linear_head.linear", True),
)
_STEM = "to_patch_embedding.conv_stem.{}"  # three modules a stage: convolution, norm, activation
_QKV = "transformer.encoder_{}.attn.to_qkv"


def is_weights_file(name: str | os.PathLike[str]) -> bool:
    """Whether ``name`` is meant as a path: a path object, or text with a slash or one of the two suffixes."""
    return not isinstance(name, str) or name.endswith((SUFFIX, CHECKPOINT)) or "/" in name or os.sep in name


def save_model(model: nn.Module, path: str | os.PathLike[str], *, about: Mapping[str, Any] | None = None) -> None:
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
        Plain values that say how the weights came to be, kept in the file.

    Raises
    ------
    TypeError
        If ``model`` is none of this project's.
    ValueError
        If ``path`` does not end in ``.safetensors``.
    OSError
        If it cannot be written.
    """
    if Path(path).suffix != SUFFIX:
        raise ValueError(f"weights files end in {SUFFIX}, found {os.fspath(path)}")
    vit = require_vit(model)
    described = {
        "spec": dataclasses.asdict(vit.spec),
        "class_names": None if vit.class_names is None else list(vit.class_names),
        "about": dict(about or {}),
    }
    metadata = {"format": FORMAT} | {name: json.dumps(value) for name, value in described.items()}
    tensors = {name: tensor.detach().contiguous() for name, tensor in vit.state_dict().items()}
    write_whole(path, serialise(tensors, metadata))


def load_model(path: Path) -> tuple[ViT, tuple[str, ...] | None]:
    """Read a file of :func:`save_model` or a checkpoint of a training run.

    Returns
    -------
    ViT, tuple of str or None
        The model, in evaluation mode, and its class names.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a weights file of ours, or its tensors do not belong to its spec.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no weights file {path}")
    spec, names, state = _from_checkpoint(path) if path.suffix == CHECKPOINT else _read_safetensors(path)
    try:
        model = ViT(ViTSpec(**spec))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} holds no usable spec: {error!r}") from error
    expected = model.state_dict()
    wrong = sorted(expected.keys() ^ state.keys())
    wrong += sorted(k for k in expected.keys() & state.keys() if expected[k].shape != state[k].shape)
    if wrong:
        raise ValueError(f"{path} does not fit its own spec: {len(wrong)} tensors differ, as {', '.join(wrong[:3])}")
    model.load_state_dict(state, assign=True)
    return model.eval(), None if names is None else tuple(names)


_Content = tuple[dict[str, Any], list[str] | None, dict[str, Tensor]]


def _read_safetensors(path: Path) -> _Content:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is no weights file of bcos_vit: its format is {metadata.get('format')!r}")
    try:
        return json.loads(metadata["spec"]), json.loads(metadata["class_names"]), state
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} holds no usable spec: {error!r}") from error


def _from_checkpoint(path: Path) -> _Content:
    content = read_checkpoint(path)
    state = {key.removeprefix("model."): tensor for key, tensor in content["state_dict"].items()}
    return content["hyper_parameters"]["spec"], content["class_names"], state


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of a training run, read without running anything that the file may hold.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be read safely, or was not made by ``bcos_vit.training``.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the reader raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a checkpoint that can be read safely: {reason}") from error
    kept: dict[str, Any] = content if isinstance(content, dict) else {}
    parts = kept.get("hyper_parameters")
    missing = {"state_dict", "hyper_parameters", "class_names"} - kept.keys()
    missing |= {"spec", "recipe"} - parts.keys() if isinstance(parts, dict) else set()
    if missing:
        raise ValueError(f"{path} is no checkpoint of bcos_vit's training: it lacks {', '.join(sorted(missing))}")
    return kept


def require_vit(model: nn.Module) -> ViT:
    """The :class:`ViT` inside ``model`` and its wrappers, or a ``TypeError``."""
    inner = unwrap(model)
    if not isinstance(inner, ViT):
        raise TypeError(f"a model of this project is needed, found {type(inner).__name__}")
    return inner


def to_published(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of ``model`` under the keys of the B-cos v2 release (flat; B-cos keys start with ``0.``).

    Raises
    ------
    ValueError
        If the release has no such architecture (positions other than sincos, B-cos values, token head). B, MaxOut
        and the logits' scale and bias are no part of a state dict: build its receiver with the same.
    """
    vit = require_vit(model)
    spec = vit.spec
    for name, only in (("position", "sincos"), ("value", "plain"), ("head", "pool")):
        if getattr(spec, name) != only:
            raise ValueError(f"the published models have {name} {only!r} only, found {getattr(spec, name)!r}")
    bcos = spec.family == "bcos"
    prefix = "0." if bcos else ""
    published: dict[str, Tensor] = {}
    state = vit.state_dict()
    for key, tensor in state.items():
        module, parameter = key.rsplit(".", 1)
        if module.endswith(".value"):
            continue  # goes with its queries and keys
        if module.endswith(".query_key"):
            name = _QKV.format(key.split(".")[1])
            tensor = torch.cat((tensor, state[key.replace("query_key", "value")]))
        elif stage := re.fullmatch(r"tokens\.stem\.(\d+)\.(conv|norm)", module):
            is_conv = stage[2] == "conv"
            name = _STEM.format(3 * int(stage[1]) + (not is_conv)) + (".linear" if bcos and is_conv else "")
        else:
            name = _translate(module, bcos, to_published=True)
        published[f"{prefix}{name}.{parameter}"] = tensor
    return published


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a published state dict, B-cos or conventional, to ours; the inverse of :func:`to_published`.

    Raises
    ------
    ValueError
        For a key that no published Vision Transformer has.
    """
    if not state:
        raise ValueError("the state dict is empty: a published ViT has weights")
    bcos = any(key.startswith("0.") for key in state)
    ours: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if bcos and not key.startswith("0."):
            raise ValueError(f"key {key!r} does not belong to a published B-cos ViT: all of its keys start with '0.'")
        module, _, parameter = key.removeprefix("0." if bcos else "").rpartition(".")
        biased = not bcos and not module.endswith((".to_qkv", ".to_out"))
        if parameter != "weight" and not (parameter == "bias" and biased):
            raise ValueError(f"key {key!r} does not belong to a published ViT: it has no {parameter!r} there")
        if qkv := re.fullmatch(_pattern(_QKV), module):
            attention = f"blocks.{qkv[1]}.attention"
            width = tensor.shape[0] // 3
            ours[f"{attention}.query_key.{parameter}"] = tensor[: 2 * width]
            ours[f"{attention}.value.{parameter}"] = tensor[2 * width :]
            continue
        if stage := re.fullmatch(_pattern(_STEM) + r"(\.linear)?", module):
            index, is_norm = divmod(int(stage[1]), 3)
            if is_norm > 1 or bool(stage[2]) != (bcos and not is_norm):
                raise ValueError(f"key {key!r} does not belong to the stem of a published ViT")
            name = f"tokens.stem.{index}.{'norm' if is_norm else 'conv'}"
        else:
            name = _translate(module, bcos, to_published=False)
        ours[f"{name}.{parameter}"] = tensor
    return ours


def _translate(module: str, bcos: bool, *, to_published: bool) -> str:
    for our, published, is_bcos_layer in _MODULES:
        theirs = published + (".linear" if bcos and is_bcos_layer else "")
        source, target = (our, theirs) if to_published else (theirs, our)
        if match := re.fullmatch(_pattern(source), module):
            return target.format(*match.groups())
    raise ValueError(f"module {module!r} has no counterpart: this is not the state dict of a published ViT")


def _pattern(template: str) -> str:
    return re.escape(template).replace(r"\{\}", r"(\d+)")
