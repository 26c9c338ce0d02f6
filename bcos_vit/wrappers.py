"""What may be wrapped around a model: the compiler, data parallelism, weight averaging, and Lightning."""

from __future__ import annotations

import sys

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside wrappers that compute the same function; other modules are returned as they are.

    Knows ``torch.compile``, DDP, ``DataParallel``, ``AveragedModel``, and LightningModules that keep the model as
    ``model`` or ``net``.
    """
    while True:
        inner: object = None
        if isinstance(model, DataParallel | DistributedDataParallel | AveragedModel):
            inner = model.module
        elif isinstance(model, nn.Module):
            inner = model._modules.get("_orig_mod")  # torch.compile
            if inner is None and _is_lightning(model):
                inner = model._modules.get("model", model._modules.get("net"))
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _is_lightning(model: nn.Module) -> bool:
    # A LightningModule can only be met where Lightning has been imported already.
    loaded = (sys.modules.get(name) for name in ("lightning.pytorch", "pytorch_lightning"))
    return any(isinstance(model, package.LightningModule) for package in loaded if package is not None)
