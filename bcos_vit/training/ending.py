"""When a run ends too early: what of it is kept, and the command that goes on."""

from __future__ import annotations

import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from lightning import Trainer

from bcos_vit.config_words import quoted
from bcos_vit.photos import PhotoError


class Terminated(SystemExit):
    """SIGTERM has come."""


@contextmanager
def saying_what_is_kept(output: Path, command: str | None, trainer: Trainer) -> Iterator[None]:
    """Whatever ends the body, say where its checkpoints and weights are, and how to go on; in the first process.

    An error carries it as a note, which a traceback shows, too. Ctrl-C ends with status 130 and SIGTERM with 143, as
    usual, and the message goes to stderr.

    Parameters
    ----------
    output
        The run's folder.
    command
        The command that started it; None: unknown.
    trainer
        Tells which process this is.
    """
    try:
        with _sigterm_raises():
            yield
    except Exception as error:
        if trainer.is_global_zero and (kept := _kept(output, command, damaged=isinstance(error, PhotoError))):
            error.add_note(kept)
        raise
    except (KeyboardInterrupt, SystemExit) as end:
        stopped = isinstance(end, KeyboardInterrupt) or isinstance(end.__context__, KeyboardInterrupt)  # Lightning's
        how, status = ("Ctrl-C", 130) if stopped else ("SIGTERM", 143) if _sigterm(end, trainer) else ("a callback", 1)
        if trainer.is_global_zero:
            kept = _kept(output, command) or "no epoch had ended, and nothing is kept"
            print(f"stopped by {how}\n{kept}", file=sys.stderr, flush=True)
        raise SystemExit(status) from None


def _sigterm(end: BaseException, trainer: Trainer) -> bool:
    return isinstance(end, Terminated) or trainer.received_sigterm


def _kept(output: Path, command: str | None, *, damaged: bool = False) -> str:
    """What a stopped run leaves, in lines; nothing where it leaves nothing."""
    files = {
        "best weights": output / "model.safetensors",
        "best checkpoint": output / "checkpoints/best.ckpt",
        "last checkpoint": output / "checkpoints/last.ckpt",
    }
    there = {what: file for what, file in files.items() if file.is_file()}
    lines = [f"{what}: {file}" for what, file in there.items()]
    if resume := there.get("last checkpoint") or there.get("best checkpoint"):
        words = {"resume": str(resume), "output": str(output)} | ({"data.corrupt": "skip"} if damaged else {})
        before = shlex.split(command or "python train.py ...")
        others = [word for word in before if word.lstrip("+").partition("=")[0] not in words]
        lines.append(f"go on with: {shlex.join([*others, *map(override, words.items())])}")
    return "\n".join(lines)


def override(word: tuple[str, str]) -> str:
    """``name=value`` for Hydra, whose grammar wants quotes around what is no plain word."""
    name, value = word
    if re.fullmatch(r"[\w./-]+", value, re.ASCII):
        return f"{name}={value}"
    return f"{name}={quoted(value)}"


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM raise :class:`Terminated`, as Ctrl-C raises ``KeyboardInterrupt``; Lightning's handler calls ours."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated(128 + number)
