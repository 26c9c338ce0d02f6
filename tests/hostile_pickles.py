"""Archives of ``torch.save`` whose pickles do what weights never need, most of them written by hand.

Each case is a function of no arguments that makes the file, and what the sentence of its refusal says.
"""

from __future__ import annotations

import builtins
import collections
import io
import os
import pickle
import struct
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from releases import published, saved

Case = tuple[Callable[[], bytes], str]

CANARY = "canary"
"""The file, in the working folder, that code in a hostile file makes."""


class Calls:
    """Calls ``function`` where it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


RUNNING: dict[str, Callable[[], Any]] = {
    "system": lambda: Calls(os.system, f"touch {CANARY}"),
    "exec": lambda: Calls(builtins.exec, f"open({CANARY!r}, 'w')"),
    "eval": lambda: Calls(builtins.eval, f"open({CANARY!r}, 'w')"),
    "open": lambda: Calls(builtins.open, CANARY, "w"),
    "touch": lambda: Calls(Path.touch, Path(CANARY)),
    "subprocess": lambda: Calls(subprocess.check_call, ["touch", CANARY]),
    "deep": lambda: {"state_dict": [{"a": (1, Calls(os.mkdir, CANARY))}]},
    "node": lambda: Calls(os.mknod, CANARY),
}
"""Objects that would make the canary."""


# --- how pickles and archives are written ---


def archive(pickled: bytes, records: Mapping[str, bytes] | None = None, folder: str = "x") -> bytes:
    """An archive like torch's, of any pickle and any records."""
    entries = {"data.pkl": pickled, "byteorder": b"little", **(records or {}), "version": b"3\n"}
    return zipped({f"{folder}/{name}": content for name, content in entries.items()})


def zipped(entries: Mapping[str, bytes], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as file:
        for name, content in entries.items():
            file.writestr(zipfile.ZipInfo(name), content, compress_type=options.get("compression"))
    return buffer.getvalue()


def unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name) for name in file.namelist()}


def program(code: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + code + b"."


def text(value: str) -> bytes:
    content = value.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def number(value: int) -> bytes:
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(count: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, key: str = "0") -> bytes:
    """A float32 tensor on a storage of ``count`` numbers, whatever there really is."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(count) + b"tQ"
    shape = number(offset) + numbers(size) + numbers(stride)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + shape + b"\x89ccollections\nOrderedDict\n)RtR"


def mapping(*pairs: tuple[bytes, bytes]) -> bytes:
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


def state(value: bytes, records: Mapping[str, bytes] | None = None, protocol: int = 2) -> bytes:
    """An archive of a state dict with one entry."""
    return archive(program(mapping((text("a"), value)), protocol), {"data/0": bytes(16)} | dict(records or {}))


def call(what: str, *arguments: bytes) -> bytes:
    module, name = what.split()
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


def doubled(levels: int) -> bytes:
    """A tuple of a tuple twice, and so on: a hundred bytes, and 2^levels ones."""
    return number(1) + b"".join(b"q\0h\0\x86" for _ in range(levels))


def doubled_list(levels: int) -> bytes:
    if levels == 0:
        return b"]q\0"
    return b"]q" + bytes([levels]) + doubled_list(levels - 1) + b"ah" + bytes([levels - 1]) + b"a"


def hyper(name: str, value: bytes) -> bytes:
    """A checkpoint with one field of its spec."""
    spec = mapping((text("spec"), mapping((text(name), value), *((text(n), number(4)) for n in _NEEDED if n != name))))
    weights = mapping((text("a"), tensor(4, (4,), (1,))))
    code = mapping((text("state_dict"), weights), (text("hyper_parameters"), spec))
    return archive(program(code), {"data/0": bytes(16)})


_NEEDED = ("depth", "width", "heads", "mlp_width", "image_size", "patch_size", "num_classes", "family", "position")

# --- the cases ---

UNSAFE = "cannot be read safely: "
ASKS = UNSAFE + "(it asks for|its pickle uses) "


def _running() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for name, make in RUNNING.items():
        cases[f"{name}"] = (lambda make=make: saved({"a": make()}), ASKS)
        cases[f"{name}-protocol-4"] = (lambda make=make: saved({"a": make()}, pickle_protocol=4), ASKS)
    system = b"cos\nsystem\n"
    touch = text(f"touch {CANARY}")
    nested = saved(Calls(os.system, f"touch {CANARY}"), _use_new_zipfile_serialization=False)
    loads = b"B" + struct.pack("<I", len(nested)) + nested
    codes = {
        "inst": b"(" + touch + b"ios\nsystem\n",
        "obj": b"(" + system + touch + b"o",
        "newobj": system + b"(" + touch + b"t\x81",
        "newobj-ex": system + b"(" + touch + b"t}\x92",
        "extension-1": b"\x82\x01(" + touch + b"tR",
        "extension-2": b"\x83\x01\0(" + touch + b"tR",
        "extension-4": b"\x84\x01\0\0\0(" + touch + b"tR",
        "reader-of-storages": call("torch.storage _load_from_bytes", loads),
        "from-type": call(
            "torch._tensor _rebuild_from_type_v2", system, b"cbuiltins\nint\n", b"(" + touch + b"t", b"N"
        ),
        "global-with-newlines": b"c__builtin__\neval\n(" + text(f"open('{CANARY}', 'w')") + b"tR",
        "memory-of-others": call("__builtin__ bytearray", number(10**10)),
        "memory-in-bytes": call("__builtin__ bytes", number(10**10)),
        "counter": call("collections Counter", text("a" * 1000)),
        "set": call("__builtin__ set", b"]"),
        "empty-set": b"\x8f",
        "frozen-set": b"(\x91",
        "sparse": call("torch._utils _rebuild_sparse_tensor", b"N", b"N"),
        "other-rebuilding": call("torch._utils _rebuild_wrapper_subclass", b"N"),
        "parameter-with-state": call("torch._utils _rebuild_parameter_with_state", b"N", b"N", b"N", b"N"),
        "device": call("torch device", text("cuda:0")),
        "size": call("torch Size", numbers((1,))),
        "complex": b"ctorch\nComplexFloatStorage\n",
        "untyped": b"ctorch.storage\nUntypedStorage\n",
        "numpy": call("numpy.core.multiarray scalar", b"N"),
    }
    protocols = {name: 4 if name in ("newobj-ex", "empty-set", "frozen-set") else 2 for name in codes}
    cases |= {n: (lambda n=n, c=code: state(c, protocol=protocols[n]), ASKS) for n, code in codes.items()}
    return cases


def _odd() -> dict[str, Case]:
    good = tensor(4, (4,), (1,))
    codes = {
        "build-on-a-list": b"]}b",
        "build-on-a-text": text("x") + b"}b",
        "build-on-a-tensor": good + b"}b",
        "build-sets-a-tensor": good + numbers((1, 2, 3, 4)) + b"b",
        "build-on-a-function": b"ctorch._utils\n_rebuild_tensor_v2\n}" + text("__code__") + number(1) + b"sb",
        "persistent-text": b"Pdata/0\n",
        "persistent-number": number(0) + b"Q",
        "persistent-kind": b"(" + text("module") + text("a") + b"tQ",
        "bytearray-of-a-terabyte": b"\x96" + struct.pack("<Q", 2**40),
        "text-of-a-terabyte": b"\x8d" + struct.pack("<Q", 2**40),
        "bytes-of-a-gigabyte": b"B" + struct.pack("<I", 2**30),
        "whole-number-of-a-gigabyte": b"\x8b" + struct.pack("<I", 2**30),
        "whole-number-of-many-digits": b"L" + b"9" * 100_000 + b"L\n",
        "frame-of-an-exabyte": b"\x95" + struct.pack("<Q", 2**60),
        "memo-of-nothing": b"h\x07",
        "mark-of-nothing": b"t",
        "too-little-on-the-stack": b"R",
        "unknown-instruction": b"\xff",
        "not-latin": b"X\x02\0\0\0\xff\xfe",
        "called-with-nothing": call("torch._utils _rebuild_tensor_v2"),
        "called-with-others": call("torch._utils _rebuild_tensor_v2", *(number(i) for i in range(6))),
        "parameter-of-nothing": call("torch._utils _rebuild_parameter", b"N", b"\x89", b"N"),
        "no-such-storage": tensor(4, (4,), (1,), key="9"),
        "storage-elsewhere": tensor(4, (4,), (1,), key="../../../../etc/passwd"),
        "more-numbers-than-the-file": tensor(2**28, (2**28,), (1,)),
        "larger-than-its-storage": tensor(4, (2**28,), (1,)),
        "far-offset": tensor(4, (4,), (1,), offset=2**40),
        "negative-offset": tensor(4, (4,), (1,), offset=-4),
        "negative-stride": tensor(4, (4,), (-1,)),
        "negative-size": tensor(4, (-4,), (1,)),
        "negative-storage": tensor(-4, (4,), (1,)),
        "size-beyond-numbers": tensor(4, (2**62, 8), (0, 0)),
        "sides-that-do-not-match": tensor(4, (4, 1), (1,)),
        "size-beyond-words": tensor(4, (2**70,), (1,)),
        "hash-that-doubles": mapping((doubled(26), number(1))),
        "list-as-key": mapping((b"]", number(1))),
        "key-twice": mapping((text("b"), number(1)), (text("b"), number(2))),
        "keeps-a-function": b"ctorch._utils\n_rebuild_tensor_v2\n",
        "keeps-a-class": b"]ctorch\nFloatStorage\na",
    }
    words = {
        "called-with-others": "makes something else than",
        "hash-that-doubles": "nests or shares values|with one of no use",
        "list-as-key": "a key twice, or with one of no use",
        "key-twice": "a key twice, or with one of no use",
        "keeps-a-function": "keeps a function or a class",
        "keeps-a-class": "keeps a function or a class",
    }
    cases: dict[str, Case] = {n: (lambda c=code: state(c), words.get(n, "")) for n, code in codes.items()}
    cases["state-key-twice"] = (
        lambda: archive(program(mapping(*2 * [(text("a"), good)])), {"data/0": bytes(16)}),
        "twice",
    )
    cases["left-behind"] = (lambda: archive(program(b"}}")), "leaves more behind than it makes")
    neighbour = {"data/1": b"\xff" * 8192}
    cases["methods-that-are-makers"] = (lambda: hidden(b"ccollections\nOrderedDict\n", ("items", "values")), UNSAFE)
    cases["methods-that-are-numbers"] = (lambda: hidden(number(1), ("items", "keys", "values")), UNSAFE)
    # The numbers are there, but in the next entry: read past the end of its own.
    cases["reads-its-neighbour"] = (lambda: state(tensor(1000, (1000,), (1,)), neighbour), "")
    cases["reads-its-neighbour-as-a-model"] = (_neighbour, UNSAFE)
    cases["expanded"] = (lambda: state(tensor(4, (2**30,), (0,))), "larger than the file")
    cases["expanded-classes"] = (lambda: archive(program(_EXPANDED), {"data/0": bytes(4000)}), "")
    cases["scalar-classes"] = (lambda: archive(program(_SCALAR), {"data/0": bytes(4000)}), "")
    return cases


def hidden(method: bytes, names: tuple[str, ...]) -> bytes:
    """A good state dict but for one NaN, with an attribute in the place of one of its methods."""
    entries = unzipped(published())
    first, index = (next(n for n in entries if n.endswith(end)) for end in ("/data/0", "/data.pkl"))
    entries[first] = b"\0\0\xc0\x7f" + entries[first][4:]
    code = entries[index][:-1].replace(b"}q\0(", b"ccollections\nOrderedDict\n)Rq\0(", 1)  # which has attributes
    attributes = b"".join(text(name) + method for name in names)
    entries[index] = code + b"}(" + attributes + b"ub."
    return zipped(entries)


_WIDE = (text("head.norm.weight"), tensor(192, (192,), (1,)))
_EXPANDED = mapping(_WIDE, (text("head.classify.weight"), tensor(192, (2**55, 192), (0, 0))))
_SCALAR = mapping(_WIDE, (text("head.classify.weight"), tensor(192, (), ())))


def _neighbour() -> bytes:
    """A whole model whose first storage has one number, where its tensor has many: the rest would be others'."""
    entries = unzipped(published())
    first = next(name for name in entries if name.endswith("/data/0"))
    entries[first] = entries[first][:4]
    return zipped(entries)


def _deep() -> dict[str, Case]:
    many = 100_000
    nested = b"]" * many + b"a" * (many - 1)
    return {
        "deep-list": (lambda: state(nested), "nests or shares values"),
        "deep-key": (lambda: archive(program(mapping((b")" + b"\x85" * 5000, number(1))))), ""),
        "very-deep-key": (lambda: archive(program(mapping((b")" + b"\x85" * many, number(1))))), ""),
        "deep-field": (lambda: hyper("depth", nested), ""),
        "field-that-doubles": (lambda: hyper("depth", doubled_list(25)), "nests or shares values"),
        "huge-field": (lambda: hyper("width", number(2**2000)), "no usable spec: "),
        "list-in-itself": (lambda: hyper("depth", b"]q\0h\0a"), "part of something else"),
        "lone-surrogate": (lambda: state(b"X\x03\0\0\0\xed\xa0\x80"), ""),
        "instructions-without-end": (lambda: state(b"N0" * 400_000), ""),
        "nested-archive": (lambda: archive(saved({"a": 1})), UNSAFE),
        "no-pickle": (lambda: archive(b""), UNSAFE),
        "two-pickles": (lambda: archive(pickle.dumps({}, 2) + pickle.dumps(Calls(os.mkdir, CANARY), 2)), ""),
        "pickle-of-2-megabytes": (
            lambda: archive(program(text("x" * 2**21))),
            "larger than the file, or than weights need",
        ),
        "only-a-counter": (lambda: saved(collections.Counter("aab")), ASKS),
    }


CASES: dict[str, Case] = {f"pickle-{name}": case for name, case in (_running() | _odd() | _deep()).items()}
