"""The model, top to bottom: a pre-norm Vision Transformer without class token, B-cos or conventional.

    image (B,3,H,W) -> encode (B,C,H,W) -> tokens (B,N,D) -> blocks -> logits (B,K)

What is special (B-cos v2, arXiv 2306.10898; "Better plain ViT baselines", arXiv 2205.01580): no class token, no
biases and no activations in the B-cos family, a mean over tokens before the classifier, and a logit bias that is
part of the model. The conventional twin differs in its bricks only, all of which are chosen in :class:`Bricks`.
"""

from __future__ import annotations

import dataclasses
import operator
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bcos_vit.checks import named_classes, require_float
from bcos_vit.compiler import own_code
from bcos_vit.layers import Logits, PoolHead, TokenHead, Tokens
from bcos_vit.layers.mode import is_autocast, is_frozen, stage
from bcos_vit.layers.position import Rotation, placing
from bcos_vit.models.about import derived
from bcos_vit.models.bricks import Block, Bricks
from bcos_vit.models.hub import HubMixin
from bcos_vit.models.spec import ViTSpec
from bcos_vit.preprocessing import Preprocessing
from bcos_vit.wrappers import unwrap


class ViT(nn.Module, HubMixin):
    """A Vision Transformer built from its spec, complete with encoding and logit bias.

    As a backbone it has what users of timm know: ``forward_features``, ``forward_head``, ``forward_intermediates``,
    ``get_classifier`` and ``reset_classifier``.

    >>> from bcos_vit import create_model
    >>> model = create_model("bcos_vit_digits")
    >>> images = torch.rand(2, 3, 8, 8)
    >>> model(images).shape, model.encode(images).shape
    (torch.Size([2, 10]), torch.Size([2, 6, 8, 8]))
    >>> torch.equal(model(images), model.forward_encoded(model.encode(images)))
    True

    Attributes
    ----------
    spec
        The :class:`ViTSpec` it was built from.
    transform
        A photo (a path, a PIL image or an (H, W, 3) array of uint8) -> (3, H, W) RGB in [0, 1]: a
        :class:`~bcos_vit.preprocessing.Preprocessing` for images of the spec's size.
    class_names
        Tuple of K names, or None. Setting another number of names is a ``ValueError``.
    about
        Plain values that say how the weights came to be, where their file says so: recipe, results, licence, ...
        ``not_fine_tuned`` holds what they were trained with, where :func:`~bcos_vit.create_model` changed it since.
    """

    def __init__(self, spec: ViTSpec) -> None:
        super().__init__()
        self.spec = spec
        self.transform = preprocessing_of(spec)
        self.class_names = None
        self.about: dict[str, Any] = {}
        self.grad_checkpointing = False
        bricks = Bricks.of(spec)
        patch = spec.patch_size // spec.stem_stride
        patch_values = patch**2 * (spec.stem[-1] if spec.stem else spec.channels)
        self.encoding = bricks.encoding()
        self.tokens = Tokens(bricks.stem(spec), patch, bricks.linear(patch_values, spec.width))
        self.place = placing(spec.position, spec.head_dim)
        self.blocks = nn.ModuleList(Block(spec, bricks) for _ in range(spec.depth))
        head = TokenHead if spec.head == "tokens" else PoolHead
        self.head = head(bricks.norm(spec.width), bricks.linear(spec.width, spec.num_classes))
        self.logits = Logits(spec.logit_scale, spec.bias)

    @property
    def num_classes(self) -> int:
        """K, the number of logits."""
        return self.spec.num_classes

    @property
    def num_features(self) -> int:
        """D, the channels of a token."""
        return self.spec.width

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """K names, in the order of the logits, or None."""
        return self._class_names

    @class_names.setter
    def class_names(self, names: Iterable[str] | None) -> None:
        self._class_names = None if names is None else named_classes(names, self.spec.num_classes)

    @property
    def dynamic_linear(self) -> bool:
        """Whether every prediction is an exact linear map of the encoded image."""
        return self.spec.family == "bcos"

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> what the network sees, (B, 6, H, W) for B-cos, (B, 3, H, W) for a twin.

        Raises ``ValueError`` or ``TypeError`` in a sentence for a wrong rank, channel number, dtype or size.
        """
        self._check(images, 3, "images")
        return self.encoding(images)

    def forward_encoded(self, encoded: Tensor) -> Tensor:
        """Logits (B, K) of an encoded image (B, C, H, W)."""
        self._check(encoded, self.encoding.channels, "encoded images")
        return self.forward_head(self._features(encoded))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of RGB images (B, 3, H, W) in [0, 1]. Values are not looked at here."""
        return self.forward_encoded(self.encode(images))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Sigmoid (each class on its own) or softmax, as the spec says; (..., K) -> (..., K)."""
        return logits.sigmoid() if self.spec.probability == "sigmoid" else logits.softmax(-1)

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> the tokens (B, N, D) that the head gets; the grid's rows one after the other."""
        return self._features(self.encode(images))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens (B, N, D) of :meth:`forward_features` -> logits (B, K).

        With ``pre_logits``, what the classifier gets: the normalised mean token (B, D), or, where every token is
        classified (head ``"tokens"``), the normalised tokens (B, N, D).
        """
        return self.head.features(x) if pre_logits else self.logits(self.head(x))

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW", "NLC"] = "NCHW",
        intermediates_only: bool = False,
    ) -> tuple[Tensor, list[Tensor]] | list[Tensor]:
        """The tokens after some of the blocks.

        Parameters
        ----------
        images
            (B, 3, H, W) in [0, 1].
        indices
            Numbers of blocks, negative ones counted from the end; n for the last n; None for all.
        norm
            Apply the head's norm to each.
        stop_early
            Run no block after the last one asked for.
        output_fmt
            ``"NCHW"``: (B, D, h, w), a token a pixel. ``"NLC"``: (B, N, D).
        intermediates_only
            Leave out the first of what is returned.

        Returns
        -------
        tuple of Tensor and list of Tensor, or the list alone
            The tokens (B, N, D) after the last block that ran, and those asked for, in the order of the blocks.

        Raises
        ------
        ValueError
            For blocks that there are not, or another format.
        """
        chosen = block_numbers(indices, self.spec.depth)
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NLC', found {output_fmt!r}")
        x, turn = self._embed(self.encode(images))
        height = images.shape[2] // self.spec.patch_size
        found = []
        for number in range(max(chosen, default=-1) + 1 if stop_early else self.spec.depth):
            x = self.blocks[number](x, turn)
            if number in chosen:
                kept = self.head.norm(x) if norm else x
                found.append(kept.mT.unflatten(2, (height, -1)) if output_fmt == "NCHW" else kept)
        return found if intermediates_only else (x, found)

    def get_classifier(self) -> nn.Module:
        """The last learnt map, from features to K scores; the logits add their bias."""
        classifier: nn.Module = self.head.classify
        return classifier

    def reset_classifier(self, num_classes: int, logit_bias: float | None = None) -> None:
        """Put an untrained classifier of ``num_classes`` logits in place, with the logit bias that belongs to it.

        ``spec`` and ``about`` follow, and ``class_names`` are forgotten. Raises ``ValueError`` for less than one class;
        features without a classifier come from ``forward_head(tokens, pre_logits=True)``.
        """
        spec = dataclasses.replace(self.spec, num_classes=num_classes, logit_bias=logit_bias)
        like = next(self.head.classify.parameters())
        fresh = Bricks.of(spec).linear(spec.width, num_classes).to(like.device, like.dtype)
        self.head.classify = fresh.train(self.training)
        self.logits = Logits(spec.logit_scale, spec.bias).train(self.training)
        self.spec, self.class_names = spec, None
        self.about = derived(self.about)

    def compile(self, *args: Any, fullgraph: bool = True, **options: Any) -> None:
        """Compile the model in place: ``model(images)`` runs as one graph from its next call on, which takes long.

        >>> from bcos_vit import create_model
        >>> model = create_model("bcos_vit_digits")
        >>> model.compile(backend="eager")  # which traces only; the default makes machine code
        >>> model(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 10])

        Names of weights stay; ``explain``, copies and saved files are not compiled. Each model has eight versions of
        its own (of sizes, dtypes, training or not, ...), where all that ``torch.compile(model)`` makes share eight.

        Parameters
        ----------
        fullgraph
            Raise an error where it cannot be one graph, or needs a ninth version, instead of running uncompiled.
        args, options
            Of ``torch.compile``.
        """
        self._compiled_call_impl = torch.compile(own_code(self._call_impl), *args, fullgraph=fullgraph, **options)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """While training, compute activations of the blocks a second time in the backward pass instead of keeping them.

        The gradients are the same; explanations are made without it.
        """
        self.grad_checkpointing = enable

    def _features(self, encoded: Tensor) -> Tensor:
        """Encoded images (B, C, H, W) -> the tokens (B, N, D) that the head gets."""
        x, turn = self._embed(encoded)
        # Never while frozen: what is computed again would not be.
        again = self.grad_checkpointing and self.training and torch.is_grad_enabled() and not is_frozen()
        for number, block in enumerate(self.blocks):
            x = checkpoint(block, x, turn, use_reentrant=False) if again else block(x, turn)
            x = stage(f"blocks.{number}", x)
        return x

    def _embed(self, encoded: Tensor) -> tuple[Tensor, Rotation | None]:
        """Encoded images -> tokens (B, N, D) that know where they are, or the rotation that will tell them."""
        return self.place(stage("tokens", self.tokens(encoded)))

    def _check(self, t: Tensor, channels: int, what: str) -> None:
        require_float(t, what)
        if t.dim() != 4:
            raise ValueError(f"{what} must have shape (B, {channels}, H, W), found {tuple(t.shape)}")
        if t.shape[1] != channels:
            hint = ": give plain RGB, the model encodes it itself" if t.shape[1] == 6 and channels == 3 else ""
            raise ValueError(f"{what} must have {channels} channels, found {t.shape[1]} in {tuple(t.shape)}{hint}")
        weight = self.head.classify.weight
        if t.dtype != weight.dtype and not is_autocast(t):
            raise TypeError(f"{what} are {t.dtype} but the model is {weight.dtype}: convert one with .to(dtype)")
        height, width = t.shape[2:]
        patch = self.spec.patch_size
        if not height or not width or height % patch or width % patch:
            raise ValueError(f"image sides must be multiples of the patch size {patch}, found {height} x {width}")
        if self.spec.position == "prior" and (height, width) != (self.spec.image_size, self.spec.image_size):
            size = self.spec.image_size
            raise ValueError(f"position 'prior' is tied to {size} x {size} images, found {height} x {width}")


def preprocessing_of(spec: ViTSpec) -> Preprocessing:
    """How a photo becomes an image of the size that the spec names."""
    return Preprocessing(spec.image_size, None if spec.position == "prior" else spec.patch_size)


def block_numbers(indices: int | Sequence[int] | None, depth: int) -> set[int]:
    """The numbers from 0 of the blocks meant by ``indices``: all (None), the last n, or some, negative ones too."""
    if isinstance(indices, int):
        last = indices if 0 < indices <= depth else depth + 1
        numbers: Iterable[int] = range(-last, 0)
    else:
        numbers = range(depth) if indices is None else indices
    try:
        meant = [operator.index(number) for number in numbers]
    except TypeError as error:
        raise TypeError(f"indices must be None, a whole number or several, found {indices!r}") from error
    if not all(-depth <= number < depth for number in meant):
        raise ValueError(f"the model has {depth} blocks, 0 to {depth - 1}, but indices are {reprlib.repr(indices)}")
    return {number % depth for number in meant}


def require_vit(model: nn.Module) -> ViT:
    """The :class:`ViT` inside ``model`` and its wrappers, or a ``TypeError``."""
    inner = unwrap(model)
    if not isinstance(inner, ViT):
        raise TypeError(f"a model of this project is needed, found {type(inner).__name__}")
    return inner
