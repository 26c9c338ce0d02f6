"""Products of float32 numbers as IEEE arithmetic has them, whatever the user has chosen for speed.

Convolutions of NVIDIA cards since Ampere take TF32, with 10 bits instead of 23, unless told otherwise, and
``torch.set_float32_matmul_precision`` lets matrix products do so, or take bfloat16 on a CPU. Training gains by it; a
ledger does not close to 1e-5 with it.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch

Switch = tuple[Callable[[], Any], Callable[[Any], None]]

# The switches before torch 2.9. They are kept, too: other threads may read them, and torch's compiler does.
_PRODUCTS: Switch = (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision)
_CUBLAS: Switch = (torch._C._get_cublas_allow_tf32, torch._C._set_cublas_allow_tf32)
_CUDNN: Switch = (torch._C._get_cudnn_allow_tf32, torch._C._set_cudnn_allow_tf32)

# Since then there is one for every operation of every backend, where "none" means as the backend's "all" or else as
# the generic one says. Their setter is looked up here, since the public one of mkldnn's "all" sets the generic one.
_BY_OPERATION = hasattr(torch._C, "_get_fp32_precision_getter")
_GENERIC = ("generic", "all")
_BACKENDS = (("cuda", "all"), ("mkldnn", "all"))
_OPERATIONS = (("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn"), ("mkldnn", "matmul"), ("mkldnn", "conv"))


class _Choice(NamedTuple):
    """What the user has chosen; None for a switch that cannot be read, where old and new ones contradict each other."""

    products: str | None
    cublas: bool | None
    cudnn: bool | None
    by_operation: dict[tuple[str, str], str]


class _Process:
    """The switches are those of the whole process: the first one in sets them, the last one out puts them back."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.inside = 0
        self.choice: _Choice | None = None


_process = _Process()
if hasattr(os, "register_at_fork"):  # else a child that was forked while another thread held the lock would wait for it
    release = _process.lock.release
    os.register_at_fork(before=_process.lock.acquire, after_in_parent=release, after_in_child=release)


@contextmanager
def ieee_float32() -> Iterator[None]:
    """Compute products of float32 tensors in float32, on every device; what was chosen before comes back at the end.

    Re-entrant, and safe in threads, but for the whole process: other threads compute so, too, while one is inside, and
    what they choose meanwhile is lost. A compiled model that runs meanwhile in another thread may be compiled once
    more, since torch compiles for each setting. It takes microseconds; autocast stays as it is.

    >>> before = torch.get_float32_matmul_precision()
    >>> torch.set_float32_matmul_precision("medium")
    >>> with ieee_float32():
    ...     torch.get_float32_matmul_precision()
    'highest'
    >>> torch.get_float32_matmul_precision()
    'medium'
    >>> torch.set_float32_matmul_precision(before)
    """
    with _process.lock:
        if not _process.inside:
            _process.choice = _set()
        _process.inside += 1
    try:
        yield
    finally:
        with _process.lock:
            _process.inside -= 1
            if not _process.inside and _process.choice is not None:
                _put_back(_process.choice)


def _set() -> _Choice:
    """Choose IEEE arithmetic, and return what was chosen before."""
    products, cublas, cudnn = (_read(get) for get, _ in (_PRODUCTS, _CUBLAS, _CUDNN))
    found: dict[tuple[str, str], str] = {}
    if _BY_OPERATION:
        get, put = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter
        for level in ((_GENERIC,), _BACKENDS, _OPERATIONS):  # from above, so that nothing is read that is inherited
            for key in level:
                found[key] = get(*key)
                if found[key] != "none":
                    put(*key, "none")
    _PRODUCTS[1]("highest")
    _CUDNN[1](False)
    return _Choice(products, cublas, cudnn, found)


def _put_back(choice: _Choice) -> None:
    if choice.products is not None:
        _PRODUCTS[1](choice.products)
    elif choice.cublas is not None:
        _CUBLAS[1](choice.cublas)
    if choice.cudnn is not None:
        _CUDNN[1](choice.cudnn)
    for key, value in choice.by_operation.items():  # after the old switches, which set these as well
        torch._C._set_fp32_precision_setter(*key, value)


def _read(get: Callable[[], Any]) -> Any:
    with suppress(RuntimeError):
        return get()
    return None


with warnings.catch_warnings():  # some versions say once in a process that the old switches will go
    warnings.simplefilter("ignore")
    _read(_PRODUCTS[0])
