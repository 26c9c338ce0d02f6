"""What a model is: the one description of an architecture, for B-cos models and their conventional twins."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from bcos_vit.checks import reject_unknown
from bcos_vit.layers import SixChannels, Standardised, stem_strides

Family = Literal["bcos", "standard"]
Position = Literal["sincos", "rope", "prior", "none"]
Value = Literal["plain", "bcos"]
Head = Literal["pool", "tokens"]
Downsample = Literal["strided", "blurred"]
Outputs = Literal["sigmoid", "softmax"]

_WORDS = {"family": Family, "position": Position, "value": Value, "head": Head, "downsample": Downsample}

LARGEST_COUNT = 2**31 - 1
LARGEST_NUMBER = 1e30  # beyond which float32 has no room to compute


@dataclass(frozen=True, kw_only=True)
class ViTSpec:
    """A Vision Transformer, completely described. Immutable, comparable, made of plain values.

    >>> sizes = dict(image_size=32, patch_size=4, width=96, depth=4, heads=3, mlp_width=384, num_classes=10)
    >>> spec = ViTSpec(family="bcos", position="rope", **sizes)
    >>> spec.grid, spec.channels, round(spec.bias, 3)
    (8, 6, -2.197)
    >>> ViTSpec(family="bcos", positions="rope", **sizes)
    Traceback (most recent call last):
    TypeError: unknown spec field 'positions', did you mean 'position'?

    Parameters
    ----------
    family
        ``"bcos"``: every layer dynamic linear. ``"standard"``: the conventional twin of the same sizes.
    image_size, patch_size
        Sides of the square training image and of a patch, in pixels of the image; a stem's stride is part of the
        patch. Other image sizes that divide into patches are accepted by the model, except with ``"prior"``.
    stem
        Output channels of 3x3 convolutions before the patches.
    stem_strides
        The stride, 1 or 2, of each of them. None, as published: 2 wherever the number of channels grows.
    downsample
        ``"strided"`` (published), or ``"blurred"``: a fixed blur (:class:`~bcos_vit.layers.Blur`) before every stem
        convolution with stride 2, so that the stride leaves no lattice in an explanation.
    width, depth, heads, mlp_width
        Channels of a token, number of blocks, attention heads, hidden channels of a block's MLP.
    num_classes
        K, the number of logits.
    position
        ``"sincos"``: the published additive code, a constant with its own line in the ledger. ``"rope"``: rotary
        positions in queries and keys, which add nothing. ``"prior"``: a learned table added to the attention
        logits, tied to the grid of ``image_size``. ``"none"``: a bag of patches.
    value
        ``"plain"`` (published) or ``"bcos"`` values in attention.
    head
        ``"pool"`` (published): classify the mean token. ``"tokens"``: classify every token, then take the mean.
    b, max_out, stem_max_out
        Exponent B >= 1 and MaxOut of the B-cos layers, and MaxOut of those in the stem.
    logit_scale, logit_bias
        Logits are ``scale * x + bias``. A bias of None means log(1/(K-1)) for ``"bcos"`` (every class starts at a
        probability of 1/K) and 0 for ``"standard"``.
    outputs
        How logits become probabilities, which is how the model was trained: ``"sigmoid"``, every class a yes-or-no
        question of its own, or ``"softmax"``, one class of all. None: sigmoid for ``"bcos"``, the only one there, and
        softmax for ``"standard"``.

    Raises
    ------
    TypeError
        For an unknown field, with the nearest valid one.
    ValueError
        For a model that cannot be built, with the value found.
    """

    family: Family
    image_size: int
    patch_size: int
    stem: tuple[int, ...] = ()
    stem_strides: tuple[int, ...] | None = None
    downsample: Downsample = "strided"
    width: int
    depth: int
    heads: int
    mlp_width: int
    num_classes: int
    position: Position = "sincos"
    value: Value = "plain"
    head: Head = "pool"
    b: float = 2
    max_out: int = 1
    stem_max_out: int = 1
    logit_scale: float = 1
    logit_bias: float | None = None
    outputs: Outputs | None = None

    def __new__(cls, **fields: Any) -> ViTSpec:
        reject_unknown("spec field", fields, spec_fields())
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if not isinstance(self.stem, list | tuple):
            raise ValueError(f"stem must be a sequence of channel numbers, found {self.stem!r}")
        object.__setattr__(self, "stem", tuple(self.stem))
        for name, kinds in _WORDS.items():
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kinds))}, found {getattr(self, name)!r}")
        if self.outputs is not None and self.outputs not in get_args(Outputs):
            raise ValueError(f"outputs must be None, sigmoid or softmax, found {self.outputs!r}")
        if self.family == "bcos" and self.outputs == "softmax":
            raise ValueError(
                "outputs='softmax' has no meaning in a model of family 'bcos', which explains single logits"
            )
        counts = ["image_size", "patch_size", "width", "depth", "heads", "mlp_width", "num_classes", "max_out"]
        for name in [*counts, "stem_max_out"]:
            _require_count(name, getattr(self, name))
        for channels in self.stem:
            _require_count("every stem entry", channels)
        self._check_strides()
        self._check_sizes()
        self._check_numbers()

    def _check_strides(self) -> None:
        given = self.stem_strides
        if given is not None:
            if not isinstance(given, list | tuple) or any(type(stride) is not int for stride in given):
                raise ValueError(f"stem_strides must be None or a sequence of whole numbers, found {given!r}")
            object.__setattr__(self, "stem_strides", tuple(given))
            if not self.stem:
                raise ValueError(f"stem_strides {given} needs a stem, and this model has none: leave it out")
            if len(given) != len(self.stem):
                raise ValueError(f"stem_strides needs {len(self.stem)} entries, one a convolution, found {given}")
            if not set(given) <= {1, 2}:
                raise ValueError(f"every entry of stem_strides must be 1 or 2, found {given}")
        if self.downsample == "blurred" and 2 not in self.strides:
            raise ValueError(
                "downsample 'blurred' needs a stem convolution with stride 2 to blur before, and this model has none "
                f"(stem {self.stem}): give it one, or leave downsample out: no blur removes the lattice of patches"
            )

    def _check_sizes(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")
        if self.patch_size % self.stem_stride:
            raise ValueError(
                f"patch_size {self.patch_size} must be a multiple of the stem's stride {self.stem_stride} "
                f"(stem {self.stem} has strides {self.strides})"
            )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        if self.position == "sincos" and (self.width % 4 or self.width < 8):
            raise ValueError(f"position 'sincos' needs a width of 8, 12, 16, ..., found {self.width}")
        if self.position == "rope" and self.head_dim % 4:
            raise ValueError(
                f"position 'rope' needs width / heads to be a multiple of 4, found {self.width} / {self.heads}"
            )

    def _check_numbers(self) -> None:
        for name in ("b", "logit_scale", *(() if self.logit_bias is None else ("logit_bias",))):
            found = getattr(self, name)
            if isinstance(found, bool) or not isinstance(found, int | float) or not abs(found) < LARGEST_NUMBER:
                raise ValueError(f"{name} must be a finite number, found {found!r}")
        if self.b < 1:
            raise ValueError(f"b must be at least 1, found {self.b}")
        if self.family == "bcos" and self.logit_bias is None and self.num_classes < 2:
            raise ValueError(
                "a B-cos model with 1 class has no default logit bias log(1/(K-1)): give num_classes=2, the second for "
                "all that is none of the first, or a logit_bias of your own"
            )
        if self.family == "standard":
            for name in ("value", "b", "max_out", "stem_max_out"):
                if getattr(self, name) != getattr(type(self), name):
                    raise ValueError(f"{name}={getattr(self, name)!r} has no meaning in a model of family 'standard'")

    @property
    def channels(self) -> int:
        """Channels of the encoded image: 6 for B-cos, 3 for conventional models."""
        return SixChannels.channels if self.family == "bcos" else Standardised.channels

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of every stem convolution."""
        return stem_strides(self.channels, self.stem) if self.stem_strides is None else self.stem_strides

    @property
    def stem_stride(self) -> int:
        """By how much the stem shrinks the image, in pixels."""
        return math.prod(self.strides)

    @property
    def grid(self) -> int:
        """Tokens along one side of the training image."""
        return self.image_size // self.patch_size

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.width // self.heads

    @property
    def bias(self) -> float:
        """The logit bias that a ``logit_bias`` of None stands for, or the one given."""
        if self.logit_bias is not None:
            return self.logit_bias
        return -math.log(self.num_classes - 1) if self.family == "bcos" else 0.0

    @property
    def probability(self) -> Outputs:
        """What turns logits into probabilities: what ``outputs`` of None stands for, or the one given."""
        if self.outputs is not None:
            return self.outputs
        return "sigmoid" if self.family == "bcos" else "softmax"


def spec_fields() -> tuple[str, ...]:
    """The names of all fields of a :class:`ViTSpec`."""
    return tuple(f.name for f in dataclasses.fields(ViTSpec))


def _require_count(name: str, found: object) -> None:
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, found {found!r}")
    if found > LARGEST_COUNT:
        raise ValueError(f"{name} must be at most {LARGEST_COUNT:,}, found one of {found.bit_length()} bits")
