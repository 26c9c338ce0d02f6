"""Other packages: which versions are there, and the line that installs a missing one."""

from __future__ import annotations

import platform
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


def versions() -> dict[str, str | None]:
    """The version of Python and of every package that results depend on; None for one that is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
