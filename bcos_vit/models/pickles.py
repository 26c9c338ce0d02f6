"""What a pickle would do, found without doing it.

``torch.load(weights_only=True)`` runs no code, but a small file can still make it fill the memory, compute for ever, or
read past what was stored. Weights need few things: numbers, text, containers, and tensors over storages. This walks
through a pickle's operations with a stack of sketches instead of objects, and refuses all else.
"""

from __future__ import annotations

import pickletools
from collections.abc import Mapping
from dataclasses import dataclass

LARGEST_REACH = 10**6
"""Values that may be met on all ways through a container: to print or compare it takes as long."""
DEEPEST = 64
"""Containers within each other."""
AXES = 8
"""Of a tensor; weights have up to four."""

_BYTES = {"Double": 8, "Long": 8, "Float": 4, "Int": 4, "Half": 2, "BFloat16": 2, "Short": 2, "Char": 1, "Byte": 1}
_STORAGES = {f"torch {kind}Storage": size for kind, size in (_BYTES | {"Bool": 1}).items()}
_MAKERS = {
    "collections OrderedDict": "dict",
    "torch._utils _rebuild_tensor_v2": "tensor",
    "torch._utils _rebuild_parameter": "tensor",
}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_WHOLE = ("BININT", "BININT1", "BININT2", "LONG1")
_PLAIN = ("NONE", "NEWTRUE", "NEWFALSE", "BINFLOAT")


@dataclass(slots=True)
class _Sketch:
    """A value that the pickle would make."""

    kind: str
    value: object = None  # of text, whole numbers and names; the parts of a tuple
    reach: int = 1
    depth: int = 0
    keys: set[object] | None = None  # of a dictionary
    whole: bool = False  # whether it is part of something already, and cannot grow any more


_NOTHING = _Sketch("plain")
_MARK = _Sketch("mark")


def check_pickle(content: bytes, storages: Mapping[str, int]) -> None:
    """Raise ``ValueError`` unless ``content`` makes numbers, text, containers and tensors only.

    Parameters
    ----------
    content
        A pickle as ``torch.save`` writes it (protocol 2).
    storages
        Bytes of each storage of the archive, by its key, within which tensors must stay.
    """
    stack: list[_Sketch] = []
    memo: dict[int, _Sketch] = {}
    try:
        for operation, argument, _ in pickletools.genops(content):
            _step(operation.name, argument, stack, memo, storages)
    except (IndexError, KeyError) as error:
        raise ValueError("its pickle is damaged") from error


def _step(
    name: str, argument: object, stack: list[_Sketch], memo: dict[int, _Sketch], storages: Mapping[str, int]
) -> None:
    match name:
        case "PROTO":
            pass
        case "STOP":
            if len(stack) != 1:
                raise ValueError("its pickle leaves more behind than it makes")
        case "MARK":
            stack.append(_MARK)
        case "BINUNICODE":
            stack.append(_Sketch("text", argument, reach=1 + len(str(argument)) // 16))
        case "BINPUT" | "LONG_BINPUT":
            memo[int(str(argument))] = stack[-1]
        case "BINGET" | "LONG_BINGET":
            stack.append(memo[int(str(argument))])
            stack[-1].whole = True
        case "GLOBAL":
            if argument not in _MAKERS and argument not in _STORAGES:
                raise ValueError(f"it asks for {argument!r}, which weights do not need")
            stack.append(_Sketch("name", argument))
        case "EMPTY_DICT" | "EMPTY_LIST":
            stack.append(_Sketch("dict" if name == "EMPTY_DICT" else "list"))
        case "TUPLE":
            stack.append(_tuple(_marked(stack)))
        case "APPEND" | "APPENDS":
            items = [stack.pop()] if name == "APPEND" else _marked(stack)
            _fill(stack[-1], "list", items)
        case "SETITEM" | "SETITEMS":
            items = [stack.pop() for _ in range(2)][::-1] if name == "SETITEM" else _marked(stack)
            _fill(stack[-1], "dict", items)
        case "BUILD":  # attributes of a state dict: of what it is made for, they would replace its methods
            attributes = stack.pop()
            if stack[-1].kind != "dict" or attributes.keys != {"_metadata"}:
                raise ValueError("its pickle sets attributes that state dicts do not have")
            _hold(stack[-1], [attributes])
        case "REDUCE":
            parts, maker = stack.pop(), stack.pop()
            stack.append(_made(maker, parts))
        case "BINPERSID":
            stack.append(_storage(stack.pop(), storages))
        case _ if name in _TUPLES:
            count = _TUPLES[name]
            stack.append(_tuple([stack.pop() for _ in range(count)][::-1]))
        case _ if name in _WHOLE:
            stack.append(_Sketch("whole", argument))
        case _ if name in _PLAIN:
            stack.append(_NOTHING)
        case _:
            raise ValueError(f"its pickle uses {name}, which weights do not need")


def _marked(stack: list[_Sketch]) -> list[_Sketch]:
    items: list[_Sketch] = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _tuple(items: list[_Sketch]) -> _Sketch:
    made = _Sketch("tuple", items)
    _hold(made, items)
    return made


def _fill(container: _Sketch, kind: str, items: list[_Sketch]) -> None:
    if container.kind != kind or container.whole:
        raise ValueError(f"its pickle adds to a {container.kind}, or to what is part of something else")
    if any(item.kind == "name" for item in items):
        raise ValueError("its pickle keeps a function or a class")
    if kind == "dict":
        container.keys = container.keys or set()
        for key in items[::2]:
            small = key.kind == "text" or (isinstance(key.value, int) and abs(key.value) < 2**31)  # others may collide
            if not small or key.value in container.keys:
                raise ValueError("its pickle has a dictionary with a key twice, or with one of no use")
            container.keys.add(key.value)
    _hold(container, items)


def _hold(container: _Sketch, items: list[_Sketch]) -> None:
    for item in items:
        item.whole = True
        container.reach += item.reach
        container.depth = max(container.depth, item.depth + 1)
    if container.reach > LARGEST_REACH or container.depth > DEEPEST:
        raise ValueError("its pickle nests or shares values beyond what weights need")


def _made(maker: _Sketch, parts: _Sketch) -> _Sketch:
    kind, given = _MAKERS.get(str(maker.value)) if maker.kind == "name" else None, _parts(parts)
    if kind == "dict" and not given:
        return _Sketch("dict")
    flat = all(len(_parts(part)) <= AXES for part in given if part.kind == "tuple")
    if kind == "tensor" and given and given[0].kind in ("storage", "tensor") and flat:
        return _Sketch("tensor")
    raise ValueError("its pickle makes something else than a dictionary or a tensor over a storage")


def _storage(parts: _Sketch, storages: Mapping[str, int]) -> _Sketch:
    kind, name, key, _, count = _parts(parts)
    size = _STORAGES.get(str(name.value)) if name.kind == "name" else None
    if kind.value != "storage" or size is None or not isinstance(count.value, int):
        raise ValueError("its pickle names a storage that is none")
    if not 0 <= count.value * size <= storages[str(key.value)]:
        raise ValueError(f"storage {str(key.value)[:20]!r} is shorter than its tensors")
    return _Sketch("storage")


def _parts(parts: _Sketch) -> list[_Sketch]:
    if parts.kind != "tuple" or not isinstance(parts.value, list):
        raise ValueError("its pickle is damaged")
    return parts.value
