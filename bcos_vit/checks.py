"""Questions every door asks of its input, and the sentences it answers with. Imports nothing of the project."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping, Set
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what only asks for names, such as the command's --help, loads no torch
    from torch import Tensor

VALUE_SLACK = 1e-3
"""How far outside [0, 1] an image value may lie: room for interpolation and rounding."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Say which valid name was probably meant: ``", did you mean 'x'?"``, or list them all where none is near."""
    options = sorted(valid)
    close = difflib.get_close_matches(name, options, n=1)
    return f", did you mean {close[0]!r}?" if close else f"; valid are: {', '.join(options)}"


def reject_unknown(kind: str, given: Iterable[str], valid: Iterable[str]) -> None:
    """Raise ``TypeError`` for the first name in ``given`` that is not in ``valid``.

    >>> reject_unknown("spec field", ["patchsize"], ["patch_size", "width"])
    Traceback (most recent call last):
    TypeError: unknown spec field 'patchsize', did you mean 'patch_size'?
    """
    options = set(valid)
    for name in given:
        if name not in options:
            raise TypeError(f"unknown {kind} {name!r}{nearest(name, options)}")


def named_classes(names: Iterable[str], classes: int) -> tuple[str, ...]:
    """The names of ``classes`` classes, once it is known that they are as many texts in an order.

    Raises
    ------
    TypeError
        For a text, a mapping, a set, or names that are no texts.
    ValueError
        For another number of names.
    """
    if isinstance(names, str | Mapping | Set) or not isinstance(names, Iterable):
        raise TypeError(f"class_names are a sequence of {classes} names or None, found {reprlib.repr(names)}")
    found = tuple(names)
    if wrong := [name for name in found if not isinstance(name, str)]:
        raise TypeError(f"class_names are texts, found {wrong[0]!r}: give [str(name) for name in names]")
    if len(found) != classes:
        raise ValueError(
            f"the model has {classes} logits, but {len(found)} class names are given ({reprlib.repr(found)}): give one "
            "name a logit, or None; create_model(..., num_classes=K) makes a model of K logits"
        )
    return tuple(str(name) for name in found)


def require_float(images: Tensor, what: str) -> None:
    """Raise ``TypeError`` unless ``images`` is a tensor of real floating-point numbers."""
    from torch import Tensor  # here, for the same reason; asked for an attribute, torch 2.8 could not compile it

    if not isinstance(images, Tensor):
        raise TypeError(f"{what} must be a torch.Tensor, found {type(images).__name__}: convert with torch.as_tensor")
    if not images.is_floating_point():
        raise TypeError(f"{what} must be floating point in [0, 1], found {images.dtype}: divide bytes by 255")


def check_values(images: Tensor) -> None:
    """Raise ``ValueError`` unless every value of ``images`` is finite and within [0, 1] by :data:`VALUE_SLACK`.

    Parameters
    ----------
    images
        (B, 3, H, W) or any other shape, floating point.
    """
    if images.numel() == 0:
        raise ValueError(f"there are no images to look at: the shape is {tuple(images.shape)}")
    lowest, highest = (float(v) for v in images.detach().aminmax())
    if lowest != lowest or highest != highest:
        raise ValueError("images hold NaN: mend or drop them before they reach the model")
    if lowest < -VALUE_SLACK or highest > 1 + VALUE_SLACK:
        raise ValueError(
            f"image values must lie in [0, 1], found {lowest:.4g} to {highest:.4g}: give RGB images as "
            "`model.transform` makes them, without subtracting a mean or dividing by a standard deviation"
        )
