"""What a model's ``about`` says of its weights: where they come from, and whether they were trained as they are used.

A field of the spec that changes no weight's shape can be changed under trained weights. What the weights were trained
with is then kept as ``about["not_fine_tuned"]``, a mapping of the changed fields, until the model has been trained.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from typing import Any

from bcos_vit.models.spec import ViTSpec, spec_fields

MARK = "not_fine_tuned"
FREE = ("image_size", "num_classes")
"""Fields that may change without a mark: the first touches no weight, the second puts an untrained head in place."""
LONGEST = 80
"""Characters of a value that are shown."""

_log = logging.getLogger(__name__)


def derived(about: Mapping[str, Any]) -> dict[str, Any]:
    """What to say of weights of which some are other ones now: which they were, their terms, and their mark."""
    origin = {name: about[name] for name in ("name", "source", "sha256") if name in about}
    kept = {name: about[name] for name in ("licence", "derived_from", MARK) if name in about}
    return ({"derived_from": origin} if origin else {}) | kept


def trained(about: Mapping[str, Any]) -> dict[str, Any]:
    """The same of weights that have been trained: the mark is history, and is told with where they come from."""
    kept = derived(about)
    if before := kept.pop(MARK, None):
        origin = kept.get("derived_from")
        kept["derived_from"] = {**(origin if isinstance(origin, dict) else {}), "trained_with": before}
    return kept


def switched(about: Mapping[str, Any], before: ViTSpec, after: ViTSpec) -> dict[str, Any]:
    """What to say of the weights of ``before`` in a model of ``after``: no results, and the mark where it is due."""
    kept = {name: value for name, value in about.items() if name not in ("results", "stated")}
    mark = kept.pop(MARK, None) or {}
    if isinstance(mark, dict):  # else a file says it in words of its own
        old, new = _plain(before), _plain(after)
        mark = {name: value for name, value in old.items() if name not in FREE} | mark
        mark = {name: value for name, value in mark.items() if name not in new or value != new[name]}
    return kept | ({MARK: mark} if mark else {})


def not_fine_tuned(about: Mapping[str, Any], spec: ViTSpec) -> str | None:
    """What a mark says, for every output of the model; None without a mark.

    >>> import bcos_vit
    >>> spec = bcos_vit.create_model("bcos_vit_digits").spec
    >>> not_fine_tuned({"not_fine_tuned": {"b": 1.5}}, spec)
    'not fine-tuned: the weights were trained with b 1.5, not 2'
    """
    mark = about.get(MARK)
    if not mark:
        return None
    fields = [name for name in spec_fields() if name in mark] if isinstance(mark, dict) else []
    if not fields:  # a file that says so in words of its own
        return "not fine-tuned: the weights were trained in another model"
    now = _plain(spec)
    told = ", and ".join(f"{name} {_shown(mark[name])}, not {_shown(now[name])}" for name in fields)
    return f"not fine-tuned: the weights were trained with {told}"


def warn_if_not_fine_tuned(about: Mapping[str, Any], spec: ViTSpec, name: str) -> None:
    """Log a warning about the weights called ``name`` where they are marked."""
    if said := not_fine_tuned(about, spec):
        _log.warning("%s: %s; fine-tune it before you rely on its outputs", name, said)


def _plain(spec: ViTSpec) -> dict[str, Any]:
    """The fields as JSON has them, and what None stands for."""
    fields = dataclasses.asdict(spec)
    fields |= {"stem_strides": spec.strides, "logit_bias": spec.bias, "outputs": spec.probability}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
