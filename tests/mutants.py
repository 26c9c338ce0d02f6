"""Modules of the package built from a source in which some text is replaced: what proves that tests can fail."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import bcos_vit.layers

Swap = tuple[str, str]


def module_from_source(name: str, *swaps: Swap) -> Any:
    """``bcos_vit.layers.<name>`` as a module of its own, with each old text replaced by the new one."""
    path = Path(bcos_vit.layers.__file__).with_name(f"{name}.py")
    source = path.read_text(encoding="utf-8")
    for old, new in swaps:
        if source.count(old) != 1:  # no AssertionError: a law's failure is one
            raise LookupError(f"{path.name} holds {source.count(old)} times: {old}")
        source = source.replace(old, new)
    module = types.ModuleType(f"bcos_vit.layers.{name}")
    module.__package__, module.__file__ = "bcos_vit.layers", str(path)
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module
