"""What is wrong with words that Hydra does not take, in one sentence with the nearest name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bcos_vit.extras import needs

with needs("train"):
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

HINTS = {
    "model": "; a model of the zoo or a file is chosen by its name, model.name=...",
    "data": "; photos of your own are chosen by data=folder data.root=...",
}
"""What else may have been meant by an unknown option of a group."""


def sentence_about(error: Exception, folder: Path, name: str, overrides: Sequence[str]) -> str:
    """Say in a sentence why Hydra takes no configuration.

    Parameters
    ----------
    error
        What Hydra or OmegaConf raised.
    folder, name
        The folder with the YAML files, and the file in it that all begins with, without its suffix.
    overrides
        The words of the command line.
    """
    text = str(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        return _unknown_option(folder, str(error.missing_cfg_file), error.options or ())
    if found := re.match(r"Could not override '([\w.-]+)'\.", text):
        return _unknown_key(found[1], folder, name, overrides)
    if found := re.search(r"An item is already at '(.+?)'", text):
        return f"{found[1]} is there already: leave the + in front of it out"
    if isinstance(error.__cause__, OmegaConfBaseException):
        return f"{_on_one_line(text)} {said_by_omegaconf(error.__cause__)}"
    return said_by_omegaconf(error) if isinstance(error, OmegaConfBaseException) else _on_one_line(text)


def said_by_omegaconf(error: OmegaConfBaseException) -> str:
    """The message on one line, with the key that it is about."""
    message = str(error).splitlines()[0]
    where = getattr(error, "full_key", None)
    return f"{message} ({where})" if where and str(where) not in message else message


def _unreadable(error: OverrideParseException) -> str:
    return f"{error.override!r} cannot be read as name=value: {_on_one_line(str(error.message))}"


def _unknown_option(folder: Path, missing: str, known: Iterable[str]) -> str:
    group, _, wanted = missing.partition("/")
    if not wanted:
        return f"there is no {missing} in {folder}"
    files = (folder / group).rglob("*.yaml")
    options = sorted({*known, *(str(file.relative_to(folder / group).with_suffix("")) for file in files)})
    below, _, last = wanted.rpartition("/")
    folders = [*difflib.get_close_matches(below, {option.rpartition("/")[0] for option in options} - {""}, n=1), wanted]
    listed = [option for option in options if option.rpartition("/")[0] in folders] or options
    close = [option for option in listed if option.startswith(wanted) or option.rpartition("/")[2] == last]
    close = close or difflib.get_close_matches(wanted, listed, n=1)
    meant = f", did you mean {close[0]}?" if close else ";"
    return f"there is no {missing}{meant} {group} can be: {', '.join(listed)}{HINTS.get(group, '')}"


def _unknown_key(key: str, folder: Path, name: str, overrides: Sequence[str]) -> str:
    here = _flat(_composed(key, folder, name, overrides))
    if parent := next((above for above in _above(key) if above in here and not _below(above, here)), None):
        return f"there is no {key!r} in the configuration: {parent} is a value, {parent}=..."
    if near := _near(key, here):
        return f"there is no {key!r} in the configuration, did you mean {' or '.join(near)}?"
    options = {file: _flat(_read(file)) for file in sorted(folder.glob("*/*.yaml"))}
    if near := _near(key, {name: value for keys in options.values() for name, value in keys.items()}):
        holders = [f"{file.parent.name}={file.stem}" for file, keys in options.items() if near[0] in keys]
        return f"there is no {key!r} in the configuration, did you mean {near[0]}, with {' or '.join(holders)}?"
    if "." in key:
        return f"there is no {key!r} in the configuration, nor a name near it: a new one is added as +{key}=..."
    return f"there is no {key!r} in the configuration; valid are: {', '.join(sorted(k for k in here if '.' not in k))}"


def _near(key: str, valid: Mapping[str, Any]) -> list[str]:
    """The names that end with ``key``; else the nearest one of its group; else those with nearly the same end."""
    if ends := _own(valid, (name for name in valid if name.endswith(f".{key}"))):
        return ends
    group, _, end = key.rpartition(".")
    same = [name for name in valid if name.rpartition(".")[0] == group]
    if close := difflib.get_close_matches(key, same, n=1, cutoff=0.8 if group else 0.6):
        return close
    ends = difflib.get_close_matches(end, {name.rpartition(".")[2] for name in valid}, n=1, cutoff=0.75)
    return _own(valid, (name for name in valid if name.rpartition(".")[2] in ends))


def _own(valid: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Those of the names that have a value of their own; if there are none, those that refer to another's."""
    found = sorted(names)
    return [name for name in found if not str(valid[name]).startswith("${")] or found


def _composed(key: str, folder: Path, name: str, overrides: Sequence[str]) -> Any:
    others = [word for word in overrides if word.lstrip("+~").partition("=")[0] != key]
    with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        try:
            return OmegaConf.to_container(compose(name, others))
        except HydraException:  # another word is wrong, too
            return OmegaConf.to_container(compose(name))


def _read(file: Path) -> Any:
    text = file.read_text()
    content = OmegaConf.to_container(OmegaConf.load(file))
    return {} if "@package" in text or not isinstance(content, dict) else {file.parent.name: content}


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Every key by its full name, ``recipe.classifier.optimizer.lr``, with its value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{above}{key}"
        found |= {name: value} | (_flat(value, f"{name}.") if isinstance(value, Mapping) else {})
    return found


def _above(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _below(above: str, names: Iterable[str]) -> bool:
    return any(name.startswith(f"{above}.") for name in names)


def _on_one_line(text: str) -> str:
    lines = (line.strip() for line in text.splitlines() if "https://hydra.cc" not in line)
    return " ".join(line for line in lines if line)
