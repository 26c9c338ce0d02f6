"""The folder that a run calls its own, while it lasts, and that holds nothing of a run that has learnt nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from itertools import count
from pathlib import Path

from lightning import Trainer
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from bcos_vit.claim import LOCK, HeldError, claim_folder
from bcos_vit.paths import name_of_model, user_path

WEIGHTS = "model.safetensors"
"""What a run keeps above all, in its folder."""
FOLDER = "BCOS_VIT_RUN_FOLDER"
"""The variable that tells the processes that Lightning starts for a run which folder the first one has claimed."""


def as_value(path: Path) -> str:
    """The path as a value of a configuration, in which ``${`` would refer to another value."""
    return str(path).replace("${", r"\${")


@contextmanager
def claimed_folder(config: DictConfig, below: str, *, resume: str | None = None) -> Iterator[Path]:
    """Claim ``config.output``, or a new folder, in the first process of a run, until the body ends.

    Parameters
    ----------
    config
        Its ``output`` of None is completed: a new folder, named by model, time and seed.
    below
        Where a new folder is made.
    resume
        The checkpoint that is gone on with: the folder of its run need not be empty.

    Raises
    ------
    HeldError
        If another process holds the folder.
    FileExistsError
        If the folder holds something.
    OSError
        If it cannot be written to.
    """
    if not _is_first():
        folder = user_path(os.environ.get(FOLDER) or config.output or _name(config, below))
        config.output = as_value(folder)
        yield folder
        return
    with ExitStack() as stack:
        if config.output is None:
            folder = _enter_new(stack, _name(config, below))
        else:
            folder = user_path(str(config.output))
            _enter_given(stack, folder, resume)
        config.output = as_value(folder)
        before = os.environ.get(FOLDER)
        os.environ[FOLDER] = str(folder)
        try:
            yield folder
        finally:
            del os.environ[FOLDER]
            if before is not None:
                os.environ[FOLDER] = before


@contextmanager
def own_folder(folder: Path, trainer: Trainer) -> Iterator[None]:
    """If the body fails before anything was learnt, empty the claimed folder again, unless it held something before.

    Raises ``ValueError`` for a strategy whose processes do not start from the script and could not report.
    """
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise ValueError("a strategy that spawns or forks its processes cannot report: give trainer.strategy=ddp")
    if not trainer.is_global_zero:
        yield
        return
    was_empty = not _content(folder)
    try:
        yield
    except BaseException:
        if trainer.global_step == 0 and was_empty and not (folder / WEIGHTS).exists():
            for path in _content(folder):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


def _is_first() -> bool:
    """Whether this is the first of all processes of a run, before there is a trainer to ask."""
    on_first_machine = "RANK" in os.environ or os.environ.get("NODE_RANK", "0") == "0"
    return getattr(rank_zero_only, "rank", 0) == 0 and on_first_machine


def _name(config: DictConfig, below: str) -> Path:
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return Path(below, name_of_model(str(config.model.name)), f"{now}_seed{config.seed}")


def _enter_new(stack: ExitStack, path: Path) -> Path:
    """Make and claim a folder of that name, or with the first free number behind it."""
    for number in count(1):
        folder = path if number == 1 else path.with_name(f"{path.name}-{number}")
        with contextlib.suppress(FileExistsError, HeldError):
            _enter(stack, folder, new=True)
            return folder
    raise AssertionError("numbers do not end")


def _enter_given(stack: ExitStack, folder: Path, resume: str | None) -> None:
    """Claim a folder, made if it is not there, that is empty or that of the run that is gone on with."""
    _enter(stack, folder, new=False)
    occupied = _content(folder)
    own = resume is not None and user_path(resume).resolve().parent == (folder / "checkpoints").resolve()
    if occupied and not own:
        raise FileExistsError(
            f"output folder {folder} already holds {occupied[0].name}: give an empty or a new one; a run's own folder "
            "is gone on with by resume=FOLDER/checkpoints/last.ckpt"
        )


def _content(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != LOCK]


def _enter(stack: ExitStack, folder: Path, *, new: bool, attempts: int = 3) -> None:
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=not new)
        with tempfile.TemporaryFile(dir=folder):
            pass
        stack.enter_context(claim_folder(folder))
    except HeldError:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError) and attempts > 1:  # a run that failed has just removed its folder
            return _enter(stack, folder, new=new, attempts=attempts - 1)
        raise type(error)(f"cannot write to output folder {folder}: {error.strerror or error}") from error
    stack.push(lambda kind, *_: _remove_empty(made) if kind is not None else None)


def _remove_empty(folders: list[Path]) -> None:
    """Remove the folder of a run, which is held, and those above it that were made for it."""
    for number, folder in enumerate(folders):
        with contextlib.suppress(OSError):  # it holds something, or another run has its folder there by now
            if number == 0:
                (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()
