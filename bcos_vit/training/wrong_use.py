"""What a configuration of ``train.py`` must not say: found before anything is built."""

from __future__ import annotations

import math
from typing import Any

import torch
from omegaconf import DictConfig

from bcos_vit.checks import reject_unknown

CONFIG_KEYS = (
    *("callbacks", "data", "ema", "explanations", "image_size", "logger", "model", "output", "recipe", "resume"),
    *("seed", "speed", "threads", "traceback", "trainer"),
)
RECIPE_KEYS = ("batch_size", "classifier", "epochs", "family")
SPEED_KEYS = ("channels_last", "checkpointing", "compile", "fused")
EXPLANATIONS_KEYS = ("every", "images", "tolerance")


def check_config(config: DictConfig) -> None:
    """Refuse what the libraries would ignore in silence, or accept and ruin a run with.

    Raises
    ------
    TypeError
        For an unknown key, with the nearest one.
    ValueError
        For an impossible value, with the value found.
    """
    for what, node, keys in (
        ("config key", config, CONFIG_KEYS),
        ("recipe key", config.recipe, RECIPE_KEYS),
        ("key of speed", config.speed, SPEED_KEYS),
        ("key of explanations", config.explanations, EXPLANATIONS_KEYS),
    ):
        reject_unknown(what, map(str, node or ()), keys)  # "+key=value"
    for name in ("epochs", "batch_size"):
        found = config.recipe[name]
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise ValueError(f"recipe.{name} must be a whole number of at least 1, found {found!r}")
    if config.ema is not None and not (isinstance(config.ema, float) and 0 < config.ema < 1):
        raise ValueError(f"ema must lie between 0 and 1, as 0.999, or be null for none, found {config.ema!r}")
    for name, found in (config.speed or {}).items():
        auto = name == "compile"
        if not isinstance(found, bool) and not (auto and found == "auto"):
            words = "true, false or auto" if auto else "true or false"
            raise ValueError(f"speed.{name} must be {words}, found {found!r}")
    classifier = config.recipe.classifier
    for where, name, zero in (
        ("recipe.classifier.optimizer", "lr", False),
        ("recipe.classifier.optimizer", "weight_decay", True),
        ("recipe.classifier.clip", "clip_factor", False),
        ("recipe.classifier.clip", "max_norm", False),
    ):
        part = classifier[where.rpartition(".")[2]] or {}
        _require_number(f"{where}.{name}", part.get(name, 1.0), zero=zero)
    _require_number("data.mix.alpha", (config.data.get("mix") or {}).get("alpha", 1.0))
    _check_trainer(config.trainer)


def _check_trainer(trainer: DictConfig) -> None:
    if (found := trainer.get("accumulate_grad_batches", 1)) != 1:
        raise ValueError(
            f"trainer.accumulate_grad_batches {found!r} is not given: it follows from recipe.batch_size, the devices, "
            "and data.batch_size, the images that a device takes at once"
        )
    if (kind := trainer.get("accelerator")) in ("gpu", "cuda") and not torch.accelerator.is_available():
        raise ValueError(
            f"trainer.accelerator is {kind!r}, but PyTorch finds none: leave trainer=gpus out, or see what "
            "`bcos-vit doctor` says of the devices"
        )


def _require_number(name: str, found: Any, *, zero: bool = False) -> None:
    number = isinstance(found, int | float) and not isinstance(found, bool)
    if not number or not 0 <= found < math.inf or (found == 0 and not zero):
        raise ValueError(f"{name} must be a number {'of at least' if zero else 'above'} 0, found {found!r}")
