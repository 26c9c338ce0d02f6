"""What ``data.classes`` says of names: on the command line, or in a file."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def read_mapping(classes: Mapping[Any, Any] | str | None) -> dict[str, str | int]:
    """What ``data.classes`` says: a mapping, or the path of a JSON or YAML file that holds one.

    Raises ``OSError`` for a file that cannot be read, ``ValueError`` for one that holds no mapping, or a class twice.
    """
    if classes is None:
        return {}
    if isinstance(classes, Mapping):
        items = [(str(key).lower() if isinstance(key, bool) else str(key), value) for key, value in classes.items()]
        where = "data.classes"
    elif isinstance(classes, str):
        items, where = _read_file(Path(classes).expanduser()), classes
    else:
        raise ValueError(f"data.classes must be a mapping or the path of a file that holds one, found {classes!r}")
    for name, value in items:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ValueError(f"{where} must map {name!r} to the name or number of a class, found {value!r}")
    if double := [name for name, times in Counter(name for name, _ in items).items() if times > 1]:
        raise ValueError(f"{where} speaks of {double[0]!r} more than once")
    return dict(items)


def _read_file(path: Path) -> list[tuple[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            content = json.loads(text, object_pairs_hook=list)
            if isinstance(content, list) and all(isinstance(pair, tuple) for pair in content):
                return content
        else:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            if isinstance(root, yaml.MappingNode):  # keys as they are written: no is a name, and so is 01
                return [(key.value, _scalar(value)) for key, value in root.value]
    except OSError as error:
        raise type(error)(f"cannot read data.classes from {path}: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as JSON or YAML: {' '.join(str(error).split())}") from error
    raise ValueError(f"{path} must hold a mapping from the data's class names to the model's")


def _scalar(node: Any) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        return node.value
    is_number = node.tag.endswith(":int") and re.fullmatch("0|[1-9][0-9]*", node.value)
    return int(node.value) if is_number else node.value
