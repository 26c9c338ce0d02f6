"""Lightning's trainer with everything that the user gives it, on a machine whose variables fit."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf, open_dict

from bcos_vit.config import build

SLURM_NUMBERS = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")


def build_trainer(config: DictConfig, *, callbacks: Sequence[Callback], loggers: Sequence[Logger] = ()) -> Trainer:
    """Build what ``config`` describes, with these callbacks instead of its own, and with these loggers besides its own.

    Parameters
    ----------
    config
        Of a ``lightning.Trainer``, with or without ``_partial_``.
    callbacks
        All of them; :func:`given_callbacks` makes those of the configuration.
    loggers
        Come before the logger of ``config``.

    Raises
    ------
    TypeError
        If a logger is none.
    ValueError
        If ``loggers`` are given and ``config`` wants none, or if the variables of SLURM do not fit the trainer.
    """
    bare = config.copy()
    given: Any = bare.get("logger")
    if loggers:
        given = [*loggers, *_given_loggers(given)]
    with open_dict(bare):
        bare.pop("callbacks", None)
        bare["_partial_"] = True
        if loggers:
            bare.pop("logger", None)
    arguments = {"callbacks": list(callbacks)} | ({"logger": given} if loggers else {})
    on_slurm = _slurm_is_in_charge() and "plugins" not in config
    if on_slurm:
        _check_slurm_variables()
    trainer: Trainer = build(bare)(**arguments)
    if on_slurm:
        _check_slurm_processes(trainer)
    return trainer


def given_callbacks(config: DictConfig) -> list[Callback]:
    """The callbacks that a configuration asks for: the group ``callbacks``, and ``trainer.callbacks``.

    Raises ``TypeError`` for a member that is no Lightning callback, with what it is.
    """
    found: list[Callback] = []
    for where, node in (("callbacks", config.get("callbacks")), ("trainer.callbacks", config.trainer.get("callbacks"))):
        for callback in _members(node):
            if not isinstance(callback, Callback):
                raise TypeError(f"{where} holds {_described(callback)}, where a lightning.Callback is expected")
            found.append(callback)
    return found


def _given_loggers(node: Any) -> list[Logger]:
    if isinstance(node, bool):
        raise ValueError(
            f"trainer.logger={str(node).lower()} is not taken, since a run keeps its log: choose logger=csv, "
            "tensorboard or wandb, and add another as +logger@trainer.logger=tensorboard"
        )
    loggers = _members(node)
    for logger in loggers:
        if not isinstance(logger, Logger):
            raise TypeError(f"trainer.logger holds {_described(logger)}, where a Lightning logger is expected")
    return loggers


def _members(node: Any) -> list[Any]:
    """Build a single thing, or a list or dictionary of things; entries that are null are left out."""
    built = None if node is None else build(node) if OmegaConf.is_config(node) else node
    members = built.values() if isinstance(built, dict) else built if isinstance(built, list) else [built]
    return [member for member in members if member is not None]


def _described(value: Any) -> str:
    if isinstance(value, functools.partial):
        return f"{value.func.__name__} with `_partial_: true`"
    if isinstance(value, bool | int | float | str | dict):
        return f"{value!r}, without a `_target_`"
    kind = value if isinstance(value, type) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}{' itself, no instance of it' if kind is value else ''}"


def _slurm_is_in_charge() -> bool:
    """Whether Lightning will believe that SLURM starts the processes of this run."""
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return "SLURM_NTASKS" in os.environ and not interactive and "TORCHELASTIC_RUN_ID" not in os.environ


def _check_slurm_variables() -> None:
    if missing := [name for name in SLURM_NUMBERS if name not in os.environ]:
        raise ValueError(_slurm_sentence(f"but not {', '.join(missing)}"))
    numbers = ("SLURM_NTASKS_PER_NODE", "SLURM_NNODES", *SLURM_NUMBERS)
    if wrong := [name for name in numbers if not os.environ.get(name, "0").isdecimal()]:
        raise ValueError(_slurm_sentence(f"and no whole number as {', '.join(wrong)}"))
    if int(os.environ["SLURM_NTASKS"]) > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ValueError(_slurm_sentence("but not SLURM_NTASKS_PER_NODE, which --ntasks-per-node sets"))


def _check_slurm_processes(trainer: Trainer) -> None:
    devices, nodes = trainer.num_devices, trainer.num_nodes
    wanted = {"SLURM_NTASKS": devices * nodes}
    if devices * nodes > 1:
        wanted |= {"SLURM_NTASKS_PER_NODE": devices, "SLURM_NNODES": nodes}
    if any(int(os.environ.get(name, number)) != number for name, number in wanted.items()):
        raise ValueError(_slurm_sentence(f"where the trainer has {devices} device(s) on {nodes} node(s)"))


def _slurm_sentence(misfit: str) -> str:
    names = ("SLURM_JOB_NAME", "SLURM_NNODES", "SLURM_NTASKS_PER_NODE", *SLURM_NUMBERS)
    found = ", ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
    return (
        f"the environment says that SLURM starts the processes of this run, {found}, {misfit}: start it with srun and "
        "trainer.devices equal to --ntasks-per-node and trainer.num_nodes to --nodes, or, to run it in this shell "
        "alone, put `env -u SLURM_NTASKS` in front of the command"
    )
