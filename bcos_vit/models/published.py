"""The keys of the B-cos v2 release (arXiv 2306.10898), and ours: exact in both directions.

Published B-cos state dicts are those of a ``Sequential(vit, logit layer)``: their keys start with ``0.``. Those of the
conventional twins are of the bare Vision Transformer. Queries, keys and values are one map there and two here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bcos_vit.layers import stem_strides
from bcos_vit.models.vit import require_vit

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


def to_published(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of ``model`` under the keys of the B-cos v2 release (flat; B-cos keys start with ``0.``).

    Raises
    ------
    ValueError
        If the release has no such architecture (positions other than sincos, B-cos values, token head, blurs or
        other strides in the stem). B, MaxOut, the logits' scale and bias, and whether probabilities are sigmoids are
        no part of a state dict: build its receiver with the same.
    """
    vit = require_vit(model)
    spec = vit.spec
    for name, only in (("position", "sincos"), ("value", "plain"), ("head", "pool"), ("downsample", "strided")):
        if getattr(spec, name) != only:
            raise ValueError(f"the published models have {name} {only!r} only, found {getattr(spec, name)!r}")
    if spec.strides != (published_strides := stem_strides(spec.channels, spec.stem)):
        raise ValueError(f"the published stem {spec.stem} has strides {published_strides}, found {spec.strides}")
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
            if tensor.dim() != 2 or len(tensor) % 3:
                raise ValueError(f"key {key!r} holds {tuple(tensor.shape)}, not queries, keys and values of one width")
            width = len(tensor) // 3
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
    return re.escape(template).replace(r"\{\}", r"(0|[1-9]\d*)")
