"""What the autograd functions of the layers have in common."""

from __future__ import annotations

import inspect
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=type[torch.autograd.Function])


def with_signature(function: Function) -> Function:
    """Class decorator: keep the signature of ``forward``, which torch would otherwise work out anew at every call."""
    setattr(function.forward, "__signature__", inspect.signature(function.forward))  # noqa: B010  # unknown to mypy
    return function
