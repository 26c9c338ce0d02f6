"""Explanations on disk: one safetensors file, in which every field is a tensor."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from bcos_vit.atomic import write_whole
from bcos_vit.paths import user_path

FORMAT = "bcos_vit explanation 1"
SUFFIX = ".safetensors"


def write(
    path: str | os.PathLike[str],
    tensors: dict[str, Tensor],
    words: Mapping[str, str | float],
    about: Mapping[str, str] | None = None,
) -> None:
    """Write an explanation's tensors and words; ``ValueError`` for another suffix, ``OSError`` if it fails."""
    path = user_path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"explanations are saved as {SUFFIX}, found {os.fspath(path)}")
    # Copies, since fields may share memory, which the format cannot express; it sorts them, hence the list of fields.
    copies = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "fields": json.dumps(list(tensors))} | {n: str(word) for n, word in words.items()}
    write_whole(path, serialise(copies, {**(about or {}), **metadata}))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and words of a file of :func:`write`; ``ValueError`` for any other file."""
    path = user_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no explanation file {os.fspath(path)}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"{os.fspath(path)} holds no explanation: its format is {metadata.get('format')!r}")
            tensors = {name: file.get_tensor(name) for name in json.loads(metadata["fields"])}
            return tensors, metadata
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{os.fspath(path)} is not a whole safetensors file of an explanation: {error}") from error
