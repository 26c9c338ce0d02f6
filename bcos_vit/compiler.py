"""``torch.compile``: a cache for each thing that is compiled, and whether this machine has what compiling takes."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import types
from collections.abc import Callable
from typing import Any

_numbers = itertools.count()


def own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, with code that no other function has.

    ``torch.compile`` keeps what it has compiled with the code, and at most eight versions of it. All models of a class
    have the same code; they would share the eight, and the ninth would run uncompiled. With code of its own each has
    eight, which are forgotten together with it. It has a name of its own, too: by the name torch remembers which sizes
    have changed, and after a model of another size would make a slower version for any size.

    >>> one, other = own_code(abs), own_code(abs)
    >>> one(-2), one.__code__ is other.__code__
    (2, False)
    """

    def call(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    code = call.__code__.replace(co_name=f"call_{next(_numbers)}")
    return types.FunctionType(code, call.__globals__, call.__name__, None, call.__closure__)


def missing_compiler(device: str) -> str | None:
    """What ``torch.compile`` needs for a type of device, such as ``"cpu"`` or ``"cuda"``, and cannot find; else None.

    >>> missing_compiler("cuda")  # doctest: +SKIP
    "no Triton that works with this GPU (pip install triton; GPUs of compute capability 7.0 or later)"
    """
    if device == "cuda":
        from torch.utils._triton import has_triton  # here, since it asks the GPU

        if not has_triton():
            return "no Triton that works with this GPU (pip install triton; GPUs of compute capability 7.0 or later)"
        if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")):
            return "no C compiler, which Triton needs (install gcc or clang, or name yours by the variable CC)"
        return None
    # As Inductor chooses it, which looks for no other.
    name = os.environ.get("CXX", {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++"))
    return None if shutil.which(name) else f"no C++ compiler {name!r} (install it, or name yours by the variable CXX)"
