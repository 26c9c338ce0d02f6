"""From configuration to objects: the one call of Hydra's instantiate."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bcos_vit.extras import needs
from bcos_vit.paths import name_of_model

with needs("train"):
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

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


@contextmanager
def sentences(traceback: bool) -> Iterator[None]:
    """End the program with status 1 and one sentence for an error that a user can mend; ``traceback`` says where."""
    # Lightning 2.6 calls what torch 2.15 has deprecated
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    from lightning.fabric.utilities.exceptions import MisconfigurationException  # here, so that --help is quick

    foreseen = (OSError, ValueError, TypeError, ImportError, MisconfigurationException, OmegaConfBaseException)
    try:
        yield
    except foreseen as error:
        if traceback:
            raise
        sys.exit(f"error: {_sentence(error)}")
    except RuntimeError as error:
        if traceback or "by peer" not in str(error):
            raise
        sys.exit("error: another process of this run has ended, its own message says why")


def _sentence(error: Exception) -> str:
    message = str(error)
    if "Original Traceback" in message:  # of a DataLoader's worker: the traceback in words, at last "Class: message"
        message = re.split(r"^[\w.]+: ", message, flags=re.MULTILINE)[-1].strip()
    return message
