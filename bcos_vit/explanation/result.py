"""The result: an explanation that carries its own ledger, ``logit = image + position + bias``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bcos_vit.explanation import checking, colour, files, plot
from bcos_vit.explanation.targets import LOGIT
from bcos_vit.layers.mode import at_least_float32

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGE = "image"
"""What :attr:`Explanation.at` says where contributions are those of the pixels."""


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Explanations of a batch: parallel tensors that slice together. With T targets per image, T follows B.

    >>> import bcos_vit
    >>> model = bcos_vit.create_model("bcos_vit_digits", pretrained=True)
    >>> e = bcos_vit.explain(model, torch.rand(2, 3, 8, 8))
    >>> e.weights.shape, e.contributions.shape, e.colour(smooth=0).shape
    (torch.Size([2, 6, 8, 8]), torch.Size([2, 8, 8]), torch.Size([2, 4, 8, 8]))
    >>> e.image_share, e[0].image_share, len(e[:1])
    (tensor([1., 1.]), tensor(1.), 1)
    >>> sorted(e.check().numpy())[:4]
    ['constants.bias', 'contributions', 'image', 'image_share']

    Everything is detached and on the device of the model. An index drops the batch axis, a slice keeps it.
    """

    images: Tensor
    """(B, 3, H, W) RGB in [0, 1], what was explained."""
    target: Tensor
    """(B,) class numbers; the channel of a unit, and of any sum of logits the class with the largest coefficient."""
    logit: Tensor
    """(B,), bias included; for a contrast the difference of two."""
    contributions: Tensor
    """(B, H, W), signed: what each pixel adds to the logit."""
    probability: Tensor | None = None
    """(B,) in [0, 1], of ``logit``; None where more or less than one logit is explained."""
    constants: dict[str, Tensor] = field(default_factory=dict)
    """Name -> (B,): what was added and is not the image. Only terms that exist, of "position" and "bias"."""
    weights: Tensor | None = None
    """(B, 6, H, W), the row of the linear map; None for post-hoc methods."""
    magnitude: Tensor | None = None
    """(B,) sum of |c_i logit_i| over the logits that are combined, a part of :attr:`scale`; None: |logit|. Of shifts,
    the mean of those sums."""
    against: Tensor | None = None
    """(B,) the other class of a contrast."""
    tokens: Tensor | None = None
    """(B, h, w) relevance before up-sampling, for methods that have it."""
    method: str = "inherent"
    cost: float = 0.0
    """In forward passes of the model per batch; an input-only backward pass counts as one."""
    of: str = LOGIT
    """What ``logit`` is: "logit", or which sum of logits or inner value (then ``target`` is its channel)."""
    at: str = IMAGE
    """Whose contributions these are: "image", or the stage whose tokens they belong to, (B, h, w)."""
    shifts: int = 0
    """Of so many shifted images this is the mean; 0: of the images as they are."""
    contributions_error: Tensor | None = None
    """(B, H, W), standard error: standard deviation of the contributions over n shifts / sqrt(n); None if n < 2."""
    logit_error: Tensor | None = None
    """(B,), the same of the logit."""

    @property
    def image(self) -> Tensor:
        """(B,) the image's own part of the logit: the sum of the contributions. At a stage, that of its tokens."""
        return self.contributions.sum((-2, -1))

    @property
    def residual(self) -> Tensor:
        """(B,) logit - image - constants: zero, up to rounding, for an exact explanation."""
        return self.logit.to(self.contributions.dtype) - self.image - self._total(self.constants)

    @property
    def scale(self) -> Tensor:
        """(B,) max(sum |contributions| + sum |constants|, sum |c_i logit_i|): the size of what is added up.

        It is the size of the rounding error, too: a logit near zero may be the small difference of large contributions.
        """
        added = self.contributions.abs().sum((-2, -1)) + self._total({n: c.abs() for n, c in self.constants.items()})
        magnitude = self.logit.abs() if self.magnitude is None else self.magnitude
        return torch.maximum(added, magnitude.to(added.dtype))

    @property
    def relative_residual(self) -> Tensor:
        """(B,) |residual| / :attr:`scale`; 0/0 = 0."""
        return torch.where(self.residual == 0, 0.0, self.residual.abs() / self.scale)

    @property
    def image_share(self) -> Tensor:
        """(B,) |image| / (|image| + |position|) in [0, 1]; exactly 1 without a position term. The bias is no part.

        A share of the *encoded* image: the constant one in [x, 1 - x] is credited to the pixel. At a stage, a share of
        its tokens, which hold all that was added before.
        """
        image = self.image.abs()
        position = self.constants["position"].abs() if "position" in self.constants else torch.zeros_like(image)
        return torch.where(position == 0, 1.0, image / (image + position))

    def check(self, tolerance: float | None = None) -> Explanation:
        """Raise ``LedgerError`` unless every relative residual is within ``tolerance``; return the explanation.

        The default is 1e-5 for logits in float32, 1e-12 in float64 and 2e-2 in bfloat16 and float16.
        """
        checking.require_closed(self, tolerance)
        return self

    def colour(self, smooth: int | None = None, percentile: float = 99.5) -> Tensor:
        """The rows as colour images, (B, 4, H, W) RGBA in [0, 1].

        Parameters
        ----------
        smooth
            Side of the box in pixels over which the opacity is averaged: odd, or 0 for none. None is the odd number
            nearest 15 min(H, W) / 224, at least 1: the published 15 for images of 224 pixels.
        percentile
            Of the opacity, in (0, 100], that becomes fully opaque.

        Raises
        ------
        ValueError
            For a method without rows, or an argument out of range.
        """
        if self.weights is None or self.at != IMAGE:
            whose = (
                f"method {self.method!r} has no rows" if self.weights is None else f"rows at {self.at!r} have no pixels"
            )
            raise ValueError(f"{whose} to colour: show the contributions instead")
        return colour.render(self.weights, self.contributions, smooth, percentile)

    def plot(
        self,
        *,
        class_names: Sequence[str] | None = None,
        title: str | None = None,
        smooth: int | None = None,
        percentile: float = 99.5,
        exact: bool = False,
    ) -> Figure:
        """Draw image, contribution map, colour explanation and ledger, one row per image and target.

        All maps share one colour scale. Needs matplotlib (``pip install bcos_vit[plot]``); nothing is shown or saved.
        At most 100 rows are drawn, fewer if the images are much taller than wide; draw more page by page::

            for start in range(0, len(e), 100):
                e[start : start + 100].plot().savefig(f"page-{start}.png")

        Parameters
        ----------
        class_names
            Names to show instead of class numbers, one for every class of the model.
        title
            Words above all.
        smooth, percentile
            As in :meth:`colour`.
        exact
            Show every pixel as a square. Otherwise a pixel that is drawn more than 8 times enlarged is interpolated
            smoothly; the numbers, and the colours at the centres of pixels, are exact in any case.

        Raises
        ------
        ImportError
            Without matplotlib, with the install line.
        ValueError
            If there are no images, too many rows (with the number that works), or too few names.
        """
        return plot.rows(self, class_names, title=title, smooth=smooth, percentile=percentile, exact=exact)

    def save(self, path: str | os.PathLike[str], *, about: Mapping[str, str] | None = None) -> None:
        """Write every field to a ``.safetensors`` file, whole or not at all; ``about`` is kept in its metadata."""
        files.write(path, self._fields(), self._words(), about)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Explanation:
        """Read what :meth:`save` wrote; ``ValueError`` in a sentence for any other file."""
        fields, words = files.read(path)
        try:
            return cls._of(fields, {**words, "cost": float(words["cost"]), "shifts": int(words.get("shifts", 0))})
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} does not hold a whole explanation: {error}") from error

    def numpy(self) -> dict[str, np.ndarray]:
        """Every field and every line of the ledger as arrays, named as here; constants as ``constants.<name>``."""
        derived = {"image": self.image, "residual": self.residual, "relative_residual": self.relative_residual}
        tensors = self._fields() | derived | {"image_share": self.image_share}
        return {n: (t.float() if t.dtype == torch.bfloat16 else t).cpu().numpy() for n, t in tensors.items()}

    def to(self, device: torch.device | str) -> Explanation:
        """The same explanation on another device."""
        return self._apply(lambda t: t.to(device))

    def of_target(self, number: int) -> Explanation:
        """One of the T targets (``number`` from 0), as if it had been explained alone."""
        if self.target.dim() == self.images.dim() - 3:
            raise TypeError("every image has one target only: there are no others to choose from")
        axis = self.images.dim() - 3
        fields = {n: t if n == "images" else t.select(axis, number) for n, t in self._fields().items()}
        return self._of(fields, self._words())

    @classmethod
    def join(cls, parts: Sequence[Explanation]) -> Explanation:
        """Explanations of parts of a batch as one of the batch."""
        columns = [part._fields() for part in parts]
        fields = {name: torch.cat([column[name] for column in columns]) for name in columns[0]}
        return cls._of(fields, parts[0]._words())

    def __len__(self) -> int:
        self._require_batch()
        return len(self.images)

    def __getitem__(self, index: int | slice) -> Explanation:
        self._require_batch()
        if isinstance(index, bool) or not (isinstance(index, slice) or hasattr(index, "__index__")):
            raise TypeError(f"index an explanation with a number or a slice, found {type(index).__name__}")
        return self._apply(lambda t: t[index])

    def __bool__(self) -> bool:
        return True  # a single explanation has no length to ask for

    def __repr__(self) -> str:
        targets = "" if self.target.dim() == self.images.dim() - 3 else f", {self.target.shape[-1]} targets each"
        count = "one image" if self.images.dim() == 3 else f"{len(self.images)} images"
        size = f"{self.images.shape[-2]} x {self.images.shape[-1]}"
        worst = f"{float(self.relative_residual.max()):.1e}" if self.logit.numel() else "none"
        words = [
            self.method,
            *([] if self.of == LOGIT else [self.of]),
            *([] if self.at == IMAGE else [f"at {self.at}"]),
            *([f"{self.shifts} shift{'s' * (self.shifts > 1)}"] if self.shifts else []),
        ]
        return f"<Explanation ({', '.join(words)}) of {count} of {size}{targets}; largest relative residual {worst}>"

    def _repr_png_(self) -> bytes | None:
        """The picture that a notebook shows: the first rows. None, and so :func:`repr`, without matplotlib."""
        count = self.target.numel()
        if not count or not plot.available():
            return None
        title = f"the first {_SHOWN} of {count}" if count > _SHOWN else None
        shown = self if self.images.dim() == 3 else self[:_SHOWN]
        return plot.png(plot.rows(shown, title=title, first=_SHOWN))

    def _require_batch(self) -> None:
        if self.images.dim() == 3:
            raise TypeError("this is the explanation of a single image: it has no batch axis to count or index")

    def _fields(self) -> dict[str, Tensor]:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        return tensors | {f"{_CONSTANT}{name}": constant for name, constant in self.constants.items()}

    @classmethod
    def _of(cls, fields: dict[str, Tensor], words: Mapping[str, Any]) -> Explanation:
        constants = {name.removeprefix(_CONSTANT): t for name, t in fields.items() if name.startswith(_CONSTANT)}
        own: dict[str, Any] = {name: t for name, t in fields.items() if not name.startswith(_CONSTANT)}
        return cls(**own, constants=constants, **{name: words[name] for name in _WORDS if name in words})

    def _words(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _WORDS}

    def _apply(self, function: Callable[[Tensor], Tensor]) -> Explanation:
        return self._of({name: function(t) for name, t in self._fields().items()}, self._words())

    def _total(self, terms: dict[str, Tensor]) -> Tensor:
        return sum(terms.values(), torch.zeros_like(self.logit, dtype=at_least_float32(self.logit.dtype)))


_CONSTANT = "constants."
_WORDS = ("method", "cost", "of", "at", "shifts")
_SHOWN = 8
