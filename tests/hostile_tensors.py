"""Weights files that are well made, and hold what no model of theirs can take: tensors, specs, names of classes."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors.torch import save as serialise
from torch import Tensor

from bcos_vit.models.weights import FORMAT, to_published
from hostile_pickles import Case
from releases import published, saved
from toys import NAME, toy

SPEC = dataclasses.asdict(toy(NAME).spec)
STATE = dict(toy(NAME).state_dict())
KEY = "head.norm.weight"


def checkpoint(changes: Mapping[Any, Any] | None = None, **content: Any) -> bytes:
    """What a training keeps, with changes to its state (None: left out)."""
    state = {f"model.{key}": tensor for key, tensor in STATE.items()} | dict(changes or {})
    kept = {key: tensor for key, tensor in state.items() if tensor is not None}
    return saved({"state_dict": kept, "hyper_parameters": {"spec": SPEC}, "class_names": list("abcde")} | content)


def release(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The state dict of a release, changed."""
    state: dict[str, Any] = dict(to_published(toy(NAME)))
    return saved(change(state) or state)


def ours(tensors: Mapping[str, Tensor] = STATE, **metadata: Any) -> bytes:
    """A file of this project; metadata are texts, or values that become JSON."""
    kept = {"spec": SPEC, "class_names": list("abcde"), "about": {}} | metadata
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in kept.items()}
    return serialise(dict(tensors), {"format": FORMAT} | texts)


def raw(header: str | bytes, data: bytes = b"", size: int | None = None) -> bytes:
    """A safetensors file with any header."""
    content = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(content) if size is None else size) + content + data


def entry(*offsets: object, dtype: str = "F32", shape: str = "[4]") -> str:
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{",".join(map(str, offsets))}]}}'


def rewritten(change: Callable[[str], str]) -> bytes:
    """A good file whose header is another text."""
    content = ours()
    size = int.from_bytes(content[:8], "little")
    return raw(change(content[8 : 8 + size].decode()), content[8 + size :])


def _set(key: str, tensor: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.update({key: tensor})


WEIGHT = STATE[KEY]
FIRST = "0.to_patch_embedding.linear.linear.weight"
FITS = "does not fit its model, tensors are "
NO_SPEC = "holds no usable spec: "
NO_FILE = "is not a safetensors file: "
STRANGE = "holds no weights of a known kind: (key|module) "
DTYPE = "weights have one floating dtype"


def _states() -> dict[str, Case]:
    nan, inf = torch.full_like(WEIGHT, float("nan")), WEIGHT.clone()
    inf[3] = float("-inf")
    several = dict.fromkeys([f"model.{key}" for key in STATE][:5])
    kinds = (torch.int64, torch.uint8, torch.bool, torch.float16, torch.float64)
    cases: dict[str, Case] = {
        "nan": (lambda: checkpoint({f"model.{KEY}": nan}), f"holds NaN or infinite weights, as in {KEY}"),
        "inf": (lambda: checkpoint({f"model.{KEY}": inf}), f"holds NaN or infinite weights, as in {KEY}"),
        "nan-in-bfloat16": (
            lambda: checkpoint({f"model.{k}": t.bfloat16() * float("nan") for k, t in STATE.items()}),
            "holds NaN or infinite weights",
        ),
        "missing": (lambda: checkpoint({f"model.{KEY}": None}), f"{FITS}1 missing: {KEY}$"),
        "several-missing": (lambda: checkpoint(several), rf"{FITS}5 missing: [\w.]+, [\w.]+, [\w.]+$"),
        "unexpected": (lambda: checkpoint({"model.more": WEIGHT}), f"{FITS}1 unexpected: more$"),
        "unexpected-for-the-terminal": (lambda: checkpoint({"model.\x1b[31m\n": WEIGHT}), f"{FITS}1 unexpected: "),
        "unexpected-and-long": (lambda: checkpoint({f"model.{'x' * 10**5}": WEIGHT}), f"{FITS}1 unexpected: xxx"),
        "other-shape": (lambda: checkpoint({f"model.{KEY}": WEIGHT[:3]}), rf"{FITS}1 of another shape: {KEY} \(3,\) "),
        "transposed": (lambda: checkpoint({f"model.{k}": t.mT for k, t in STATE.items() if t.dim() == 2}), FITS),
        "scalar": (lambda: checkpoint({f"model.{KEY}": torch.tensor(1.0)}), rf"another shape: {KEY} \(\) for"),
        "no-numbers": (lambda: checkpoint({f"model.{KEY}": torch.zeros(0)}), rf"another shape: {KEY} \(0,\) for"),
        "meta": (lambda: checkpoint({f"model.{KEY}": WEIGHT.to("meta")}), ""),
        "sparse": (lambda: checkpoint({f"model.{KEY}": WEIGHT.to_sparse()}), "it asks for "),
        "complex": (lambda: checkpoint({f"model.{KEY}": WEIGHT.to(torch.complex64)}), "it asks for "),
        "float8": (lambda: checkpoint({f"model.{KEY}": WEIGHT.to(torch.float8_e4m3fn)}), "it asks for "),
        "all-of-whole-numbers": (lambda: checkpoint({f"model.{k}": t.long() for k, t in STATE.items()}), DTYPE),
        "all-expanded": (
            lambda: checkpoint({f"model.{k}": torch.zeros(1).expand(t.shape) for k, t in STATE.items()}),
            "holds tensors that are larger than the file",
        ),
        "only-a-tensor": (lambda: saved(torch.ones(3)), "holds no weights"),
        "only-a-list": (lambda: saved([torch.ones(3)]), "holds no weights"),
        "only-a-number": (lambda: saved(1), "holds no weights"),
        "only-nothing": (lambda: saved(None), "holds no weights"),
        "empty-state": (lambda: saved({}), "holds no weights"),
        "key-that-is-no-text": (lambda: checkpoint({7: WEIGHT}), "is no state dict: 7 is no tensor"),
        "value-that-is-no-tensor": (lambda: checkpoint({"model.more": [1, 2]}), "no state dict: 'more' is no tensor"),
        "state-that-is-a-list": (lambda: checkpoint(state_dict=[WEIGHT]), "holds no weights"),
        "state-of-nothing": (lambda: checkpoint(state_dict={}), "holds no weights"),
        "spec-with-keys-that-are-no-texts": (lambda: checkpoint(hyper_parameters={"spec": SPEC | {1: 2}}), NO_SPEC),
        "classes-too-few": (lambda: checkpoint(class_names=list("abcd")), "no usable class names: 5 are needed"),
        "classes-of-numbers": (lambda: checkpoint(class_names=[1, 2, 3, 4, 5]), "no usable class names: 5"),
        "classes-in-a-text": (lambda: checkpoint(class_names="abcde"), "no usable class names: 5 are needed"),
        "classes-in-a-dict": (lambda: checkpoint(class_names=dict.fromkeys("abcde")), "no usable class names: 5"),
    }
    for kind in kinds:
        cases[f"{kind}"] = (lambda kind=kind: checkpoint({f"model.{KEY}": WEIGHT.to(kind)}), DTYPE)
    return {f"state-{name.removeprefix('torch.')}": case for name, case in cases.items()}


RELEASES: dict[str, Case] = {
    "missing": (lambda: release(lambda state: {k: t for k, t in state.items() if k != FIRST}), f"1 missing: {FIRST}"),
    "other-shape": (lambda: release(_set(FIRST, WEIGHT)), f"1 of another shape: {FIRST} "),
    "unexpected": (lambda: release(_set("0.more", WEIGHT)), STRANGE),
    "colliding": (
        lambda: release(lambda s: s | {k.replace("r_0.", "r_00."): t.clone() for k, t in s.items()}),
        STRANGE,
    ),
    "half-prefixed": (
        lambda: release(lambda s: s | {k.removeprefix("0."): t.clone() for k, t in s.items()}),
        STRANGE,
    ),
    "nan": (lambda: release(lambda s: s | {FIRST: s[FIRST] * float("nan")}), f"NaN .* in {FIRST}"),
    "int": (lambda: release(lambda s: {k: t.int() for k, t in s.items()}), DTYPE),
    "text": (lambda: release(_set("0.more", "tensor")), "is no state dict: '0.more' is no tensor"),
    "another": (lambda: published(width=64), FITS),
}
"""State dicts of a release, which do not say what they are: refused in full where a card says it."""


def _specs() -> dict[str, Case]:
    fields: dict[str, Any] = {
        "depth": 10**9,
        "width": 10**9,
        "mlp_width": 10**9,
        "num_classes": 10**9,
        "heads": 10**9,
        "image_size": 3 * 10**400,
        "patch_size": -1,
        "b": float("nan"),
        "logit_scale": 10**400,
        "logit_bias": float("inf"),
        "family": ["bcos"],
        "position": None,
        "stem": "many",
        "max_out": 2.0,
        "x" * 500_000: 1,
        "\x1b[31m\n": 1,
    }
    specs: dict[str, Any] = {f"{name[:12]!r}": SPEC | {name: value} for name, value in fields.items()}
    specs |= {f"{n}-of-31-digits": SPEC | {n: 10**30} for n in ("width", "mlp_width", "num_classes", "depth")}
    specs |= {f"{n}-beyond-bytes": SPEC | {n: 2**58} for n in ("mlp_width", "num_classes")}
    specs |= {"growing-stem": SPEC | {"stem": list(range(1, 60_000))}, "stem": SPEC | {"stem": [[1], {}]}}
    specs |= {"list": [], "text": '"vit"', "cut": "{", "nothing": "", "deep": "[" * 10**5 + "]" * 10**5}
    specs |= {f"deep-{n}": f'{{"depth": {"[" * n}{"]" * n}}}' for n in (300, 900, 960, 980, 990, 1000)}
    specs |= {"long-number": f'{{"depth": {"9" * 10**5}}}'}
    cases: dict[str, Case] = {name: (lambda spec=spec: ours(spec=spec), "") for name, spec in specs.items()}
    tiny = {f"{n}": torch.zeros(0) for n in range(13_000)}
    cases["as-many-blocks-as-tensors"] = (lambda: ours(tiny, spec=SPEC | {"depth": 12_900}), "")
    names = {"short": ["a"], "numbers": [1, 2, 3, 4, 5], "text": '"abcde"', "dict": {}, "cut": "["}
    cases |= {f"classes-{name}": (lambda value=value: ours(class_names=value), "") for name, value in names.items()}
    cases |= {f"about-{n}": (lambda v=v: ours(about=v), "") for n, v in {"list": [], "cut": "{", "null": None}.items()}
    return {f"spec-{name}": case for name, case in cases.items()}


def _headers() -> dict[str, Case]:
    one = entry(0, 16)
    headers: dict[str, tuple[str | bytes, bytes]] = {
        "overlapping": (f'{{"a":{one},"b":{one}}}', bytes(16)),
        "half-overlapping": (f'{{"a":{one},"b":{entry(8, 24)}}}', bytes(24)),
        "beyond-its-end": (f'{{"a":{entry(0, 64, shape="[16]")}}}', bytes(16)),
        "far-beyond": (f'{{"a":{entry(2**62, 2**62 + 16)}}}', bytes(16)),
        "backwards": (f'{{"a":{entry(16, 0)}}}', bytes(16)),
        "negative": (f'{{"a":{entry(-16, 0)}}}', bytes(16)),
        "gap": (f'{{"a":{entry(16, 32)}}}', bytes(32)),
        "more-at-its-end": (f'{{"a":{one}}}', bytes(17)),
        "shape-of-others": (f'{{"a":{entry(0, 16, shape="[5]")}}}', bytes(16)),
        "shape-beyond-numbers": (f'{{"a":{entry(0, 16, shape=f"[{2**63},4]")}}}', bytes(16)),
        "shape-that-wraps": (f'{{"a":{entry(0, 16, shape=f"[{2**32},{2**32},4]")}}}', bytes(16)),
        "negative-shape": (f'{{"a":{entry(0, 16, shape="[-4]")}}}', bytes(16)),
        "unknown-dtype": (f'{{"a":{entry(0, 16, dtype="F31")}}}', bytes(16)),
        "no-dtype": ('{"a":{"shape":[4],"data_offsets":[0,16]}}', bytes(16)),
        "named-twice": (f'{{"a":{one},"a":{one}}}', bytes(16)),
        "list": ("[]", b""),
        "number": ("7", b""),
        "no-names": ("{}", b""),
        "not-unicode": (b'{"\xff\xfe":' + one.encode() + b"}", bytes(16)),
        "lone-surrogate": (f'{{"\\ud800":{one}}}', bytes(16)),
        "metadata-of-numbers": ('{"__metadata__":{"format":7}}', b""),
        "metadata-list": ('{"__metadata__":[]}', b""),
        "deep": ('{"a":' + "[" * 10**5 + "]" * 10**5 + "}", b""),
        "cut": ('{"a":', b""),
    }
    cases: dict[str, Case] = {n: (lambda h=h, d=d: raw(h, d), "") for n, (h, d) in headers.items()}
    for size in (2**63, 2**64 - 1, 100_000_000, 2**20 + 1):
        cases[f"header-of-{size}"] = (lambda size=size: raw("{}", bytes(100), size), "it is damaged, or of a kind")
    cases["header-beyond-its-end"] = (lambda: raw("{}", bytes(100), 5000), NO_FILE)
    cases["format-of-others"] = (lambda: ours(format="bcos_vit 2"), "its format is 'bcos_vit 2'")
    cases["format-for-the-terminal"] = (lambda: ours(format="\x1b[31m\n" * 99), "its format is ")
    cases["model-named-twice"] = (lambda: rewritten(_named_twice), NO_FILE)
    cases["spec-twice"] = (
        lambda: rewritten(lambda h: h.replace('"__metadata__":{', '"__metadata__":{"spec":"x",', 1)),
        "",
    )
    cases["metadata-twice"] = (lambda: rewritten(lambda h: f'{{"__metadata__":{{}},{h[1:]}'), NO_FILE)
    for key in ("spec", "class_names", "about"):
        cases[f"no-{key}"] = (lambda key=key: rewritten(lambda h: h.replace(f'"{key}"', '"other"', 1)), NO_SPEC)
    cases["nan"] = (lambda: ours(STATE | {KEY: WEIGHT * float("nan")}), "holds NaN or infinite weights")
    cases["mixed-dtypes"] = (lambda: ours(STATE | {KEY: WEIGHT.double()}), DTYPE)
    for kind in (torch.int8, torch.bool, torch.complex64, torch.float8_e5m2, torch.float8_e4m3fn, torch.uint16):
        cases[f"{kind}"] = (lambda kind=kind: ours({k: t.to(kind) for k, t in STATE.items()}), DTYPE)
    return {f"header-{name.removeprefix('torch.')}": case for name, case in cases.items()}


def _named_twice(header: str) -> str:
    return f'{header[:-1]},"{KEY}":{json.dumps(json.loads(header)[KEY])}}}'


CASES: dict[str, Case] = _states() | _specs() | _headers()
RELEASES = {f"release-{name}": case for name, case in RELEASES.items()}
