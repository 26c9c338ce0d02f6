"""From configuration to objects: the one call of Hydra's instantiate."""

from __future__ import annotations

from typing import Any

from bcos_vit.extras import needs

with needs("train"):
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from omegaconf import DictConfig, OmegaConf


def build(config: DictConfig) -> Any:
    """Build what ``config`` describes: ``_target_`` called with its arguments, or held back by ``_partial_: true``.

    An error of the thing built is raised as it is, not wrapped in one of Hydra's.
    """
    try:
        return instantiate(config, _convert_="all")
    except InstantiationException as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from error


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as dictionaries, lists and plain values, with every reference resolved."""
    resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}
