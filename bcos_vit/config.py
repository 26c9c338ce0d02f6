"""From the command line to a configuration, and from there to objects: the one call of Hydra's instantiate."""

from __future__ import annotations

import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bcos_vit.config_errors import said_by_omegaconf, sentence_about
from bcos_vit.config_words import read_words
from bcos_vit.extras import needs
from bcos_vit.paths import name_of_model

with needs("train"):
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException, InstantiationException
    from hydra.utils import instantiate
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

FULL_ERROR = "HYDRA_FULL_ERROR"
"""The variable that makes Hydra raise errors."""
SAID = {
    "FailOnRecompileLimitHit": "the compiled model met a ninth kind of input (size, dtype, mode), and torch compiles "
    "it for eight at most: give images of one size, or speed.compile=false",
    "by peer": "another process of this run has ended, its own message says why",
    "DataLoader worker": "a process that loads images was ended from outside, as systems do where memory runs out: "
    "give fewer of them with data.num_workers=..., or 0",
}
"""Words, or the class, of PyTorch's errors that are no fault of the program, and what to say."""
SINGLE = ("data", "logger", "model", "recipe")
"""The groups of which one file is chosen."""
OmegaConf.register_new_resolver("name_of_model", name_of_model, replace=True)  # ${name_of_model:${model.name}}


def build(config: DictConfig, **given: Any) -> Any:
    """Build what ``config`` describes: ``_target_`` called with its arguments, or held back by ``_partial_: true``.

    What is ``given`` comes in addition to the arguments, or instead of them.

    An error of the thing built is raised as it is, not wrapped in one of Hydra's.
    """
    try:
        return instantiate(config, _convert_="all", **given)
    except InstantiationException as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from error


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as dictionaries, lists and plain values, with every reference resolved."""
    resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def run_command(main: Callable[[], Any], configs: Path, name: str) -> None:
    """Call a function made by ``hydra.main``; what is wrong before it is entered ends the program with a sentence.

    Parameters
    ----------
    main
        Composes the configuration from the words of the command line, and goes on with it.
    configs, name
        The folder with the YAML files, and the file in it that all begins with, without its suffix.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a sign that cannot be shown is no reason to stop
    read_words()
    if os.environ.get(FULL_ERROR) == "1":
        main()
        return
    os.environ[FULL_ERROR] = "1"  # else Hydra would print the error and exit
    try:
        main()
    except (HydraException, OmegaConfBaseException, OSError, ValueError) as error:
        if _was_entered(error):
            raise
        words = [word for word in sys.argv[1:] if not word.startswith("-")]
        sys.exit(f"error: {sentence_about(error, configs, name, words)}")
    finally:
        del os.environ[FULL_ERROR]


def _was_entered(error: BaseException) -> bool:
    """Whether the error comes from what Hydra calls with the configuration, in its function ``run_job``."""
    return any(frame.name == "run_job" for frame in traceback.extract_tb(error.__traceback__))


def _refuse_merged_choices() -> None:
    """Raise ``ValueError`` for ``logger=[csv,wandb]`` and the like: of two files with one place, the last would win."""
    for word in HydraConfig.get().overrides.task if HydraConfig.initialized() else ():
        group, _, chosen = word.partition("=")
        if group in SINGLE and chosen.startswith("["):
            more = ", and add another as +logger@trainer.logger=tensorboard" if group == "logger" else ""
            raise ValueError(f"{word} would keep only the last of them: choose one{more}")


@contextmanager
def sentences(traceback: bool) -> Iterator[None]:
    """End the program with status 1 and one sentence for an error that a user can mend; ``traceback`` says where."""
    # Lightning 2.6 calls what torch 2.15 has deprecated
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    from lightning.fabric.utilities.exceptions import MisconfigurationException  # here, so that --help is quick

    foreseen = (OSError, ValueError, TypeError, ImportError, MisconfigurationException, OmegaConfBaseException)
    try:
        _refuse_merged_choices()
        yield
    except foreseen as error:
        if traceback:
            raise
        sys.exit(f"error: {_sentence(error)}")
    except Exception as error:  # the class of the limit is a direct child of it
        reason = next((said for words, said in SAID.items() if words in f"{type(error).__name__}: {error}"), None)
        if traceback or reason is None:
            raise
        sys.exit("\n".join([f"error: {reason}", *getattr(error, "__notes__", ())]))


def _sentence(error: Exception) -> str:
    message = said_by_omegaconf(error) if isinstance(error, OmegaConfBaseException) else str(error)
    if "Original Traceback" in message:  # of a DataLoader's worker: the traceback in words, at last "Class: message"
        message = re.split(r"^[\w.]+: ", message, flags=re.MULTILINE)[-1].strip()
    return "\n".join([message, *getattr(error, "__notes__", ())])
