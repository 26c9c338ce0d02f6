"""Going on with a run that was cut short."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

from bcos_vit.claim import LOCK
from bcos_vit.data.names import shortened
from bcos_vit.models.weights import read_checkpoint
from bcos_vit.training.classifier import Classifier

KEPT = (
    *("spec", "recipe.recipe", "recipe.ema", "recipe.data.mix", "recipe.data.train_images"),
    *("recipe.data.train_transform", "recipe.trainer.max_epochs"),
)
"""What must be as it was: the optimiser's state belongs to it, and the schedule to a number of steps.

Devices may change: an epoch has as many steps on any number of them.
"""


def check_resumable(path: Path, classifier: Classifier) -> int:
    """See that the checkpoint at ``path`` is one of a run like this.

    Parameters
    ----------
    path
        ``last.ckpt`` or ``best.ckpt`` of a run.
    classifier
        What is to be trained on.

    Returns
    -------
    int
        How many epochs were begun.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no checkpoint, or class names, model, recipe, averaging, mixing, images, transform or epochs differ.
    """
    content = read_checkpoint(path)
    if missing := {"epoch", "loops", "lr_schedulers", "optimizer_states"} - content.keys():
        raise ValueError(f"{path} cannot be gone on with: it lacks {', '.join(sorted(missing))}")
    for where in KEPT:
        _require_equal(path, where, _at(content["hyper_parameters"], where), _at(dict(classifier.hparams), where))
    before, now = content["class_names"] or (), classifier.model.class_names or ()
    if tuple(before) != tuple(now):
        raise ValueError(f"{path} was made for the classes {shortened(before)}, not {shortened(now)}")
    return int(content["epoch"]) + 1


def put_aside(output: Path, resumed: Path) -> None:
    """Move the files of the run that is gone on with in its own folder, as its report, to ``before_resume``.

    Checkpoints, logs and pictures stay in their folders, where the resumed run adds to them; but a ``last.ckpt`` that
    is not the checkpoint ``resumed`` is moved, too, since the first epoch would write over it.
    """
    files = [path for path in output.iterdir() if path.is_file() and path.name != LOCK]
    if (last := output / "checkpoints/last.ckpt").is_file() and not last.samefile(resumed):
        files.append(last)
    if files:
        names = (output / ("before_resume" if number == 1 else f"before_resume-{number}") for number in count(1))
        aside = next(path for path in names if not path.exists())
        aside.mkdir()
        for path in files:
            path.rename(aside / path.name)


def _at(values: Any, where: str) -> Any:
    for name in where.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _require_equal(path: Path, where: str, before: Any, now: Any) -> None:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted(before.keys() | now.keys()):
            _require_equal(path, f"{where}.{name}", before.get(name), now.get(name))
    elif before != now:
        name = where.removeprefix("recipe.")
        raise ValueError(f"{path} was made with {name} {before!r}, not {now!r}: a resumed run keeps to it")
