"""Other packages: which versions are there, and the line that installs a missing one."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    *("bcos_vit", "torch", "torchvision", "safetensors", "numpy", "pillow", "matplotlib", "lightning", "hydra-core"),
    *("omegaconf", "torchmetrics", "timm", "scikit-learn", "tensorboard", "wandb"),
    *("onnx", "onnxscript", "onnxruntime"),
)


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Import inside: a module that is not installed becomes an ``ImportError`` naming the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "bcos_vit":
            raise
        raise ImportError(f"{error.name} is not installed: pip install 'bcos_vit[{extra}]'") from error


def needs_version(package: str, least: tuple[int, int], purpose: str) -> None:
    """Raise an ``ImportError`` with the version found and the one needed if ``package`` is older than ``least``.

    >>> needs_version("numpy", (99, 0), "time travel")
    Traceback (most recent call last):
    ImportError: time travel needs numpy 99.0 or later, found 1.26.0: pip install -U numpy
    """
    found = version(package)
    major, minor, *_ = (int(number) for number in re.findall(r"\d+", found))
    if (major, minor) < least:
        needed = ".".join(map(str, least))
        raise ImportError(f"{purpose} needs {package} {needed} or later, found {found}: pip install -U {package}")


def versions() -> dict[str, str | None]:
    """The version of Python and of every package that results depend on; None for one that is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
