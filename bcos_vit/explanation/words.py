"""An explanation in words: what is explained, and the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bcos_vit.explanation.targets import AGAINST_MEAN, LOGIT

if TYPE_CHECKING:
    from bcos_vit.explanation.result import Explanation


def ledger(e: Explanation) -> str:
    """The ledger of one image and one target in words, a line a term; of shifted images with the standard error."""
    parts = {"image" if e.at == "image" else "tokens": e.image, **e.constants}
    lines = [f"{label:<8}{float(value):+9.3f}" for label, value in parts.items()]
    lines += [f"{value_name(e):<8}{float(e.logit):+9.3f}", f"{'residual':<8}{float(e.residual):+9.0e}"]
    if e.logit_error is not None:
        lines.append(f"{'std err':<8}{float(e.logit_error):9.3f}")
    if e.probability is not None:
        lines.append(f"{'p':<8}{100 * float(e.probability):8.2f}%")
    if e.shifts:
        lines.append(f"{'shifts':<8}{e.shifts:9}")
    return "\n".join(lines)


def target_name(e: Explanation, class_names: Sequence[str] | None = None) -> str:
    """What one image is explained for: ``tabby``, or ``tabby rather than lynx``; what is no class, in its own words.

    Raises
    ------
    ValueError
        If ``class_names`` are too few.
    """
    if e.of not in (LOGIT, AGAINST_MEAN):
        return e.of
    classes = [int(c) for c in ([e.target] if e.against is None else [e.target, e.against])]
    if class_names is not None and max(classes) >= len(class_names):
        raise ValueError(
            f"class_names holds {len(class_names)} names, and class {max(classes)} is explained: give a name for "
            "every class of the model, in its order"
        )
    names = [str(c) if class_names is None else str(class_names[c]) for c in classes]
    return " rather than ".join([*names, *(["the mean class"] if e.of == AGAINST_MEAN else [])])


def value_name(e: Explanation) -> str:
    """What the lines of the ledger add up to."""
    return "logit" if e.of in (LOGIT, AGAINST_MEAN) else "value"
