"""The model, top to bottom: a pre-norm Vision Transformer without class token, B-cos or conventional.

    image (B,3,H,W) -> encode (B,C,H,W) -> tokens (B,N,D) -> blocks -> logits (B,K)

What is special (B-cos v2, arXiv 2306.10898; "Better plain ViT baselines", arXiv 2205.01580): no class token, no
biases and no activations in the B-cos family, a mean over tokens before the classifier, and a logit bias that is
part of the model. The conventional twin differs in its bricks only, all of which are chosen in :class:`Bricks`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image
from torch import Tensor, nn

from bcos_vit.checks import require_float
from bcos_vit.layers import (
    Attention,
    BcosConv2d,
    BcosLinear,
    GroupNorm,
    LayerNorm,
    Logits,
    Mlp,
    PoolHead,
    SixChannels,
    Standardised,
    TokenHead,
    Tokens,
    build_stem,
    constant,
)
from bcos_vit.layers.position import Rotation, rotation, sincos_code
from bcos_vit.models.spec import ViTSpec


@dataclass(frozen=True)
class Bricks:
    """What the two families are made of. ``linear`` may carry a bias, ``project`` never does."""

    encoding: Callable[[], nn.Module]
    linear: Callable[[int, int], nn.Module]
    project: Callable[[int, int], nn.Module]
    value: Callable[[int, int], nn.Module]
    conv: Callable[..., nn.Module]
    norm: Callable[[int], nn.Module]
    stem_norm: Callable[[int], nn.Module]
    activation: Callable[[], nn.Module]

    @classmethod
    def of(cls, spec: ViTSpec) -> Bricks:
        plain = partial(nn.Linear, bias=False)
        if spec.family == "standard":
            norm, stem_norm = partial(LayerNorm, bias=True), partial(GroupNorm, bias=True)
            return cls(Standardised, nn.Linear, plain, plain, nn.Conv2d, norm, stem_norm, nn.GELU)
        linear = partial(BcosLinear, b=spec.b, max_out=spec.max_out)
        conv = partial(BcosConv2d, b=spec.b, max_out=spec.stem_max_out)
        value = linear if spec.value == "bcos" else plain
        return cls(SixChannels, linear, linear, value, conv, LayerNorm, GroupNorm, nn.Identity)


class Block(nn.Module):
    """Attention and MLP, each added to the tokens: (B, N, D) -> (B, N, D)."""

    def __init__(self, spec: ViTSpec, bricks: Bricks) -> None:
        super().__init__()
        width = spec.width
        self.attention = Attention(
            width,
            spec.heads,
            norm=bricks.norm(width),
            value=bricks.value(width, width),
            project=bricks.project(width, width),
            prior_tokens=spec.grid**2 if spec.position == "prior" else None,
        )
        self.mlp = Mlp(
            norm=bricks.norm(width),
            expand=bricks.linear(width, spec.mlp_width),
            activation=bricks.activation(),
            contract=bricks.linear(spec.mlp_width, width),
        )

    def forward(self, x: Tensor, turn: Rotation | None = None) -> Tensor:
        x = x + self.attention(x, turn)
        return x + self.mlp(x)


class ViT(nn.Module):
    """A Vision Transformer built from its spec, complete with encoding and logit bias.

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
        PIL image -> (3, H, W) RGB in [0, 1], set by ``create_model``; None for a model built by hand.
    class_names
        Tuple of K names, or None.
    """

    def __init__(self, spec: ViTSpec) -> None:
        super().__init__()
        self.spec = spec
        self.transform: Callable[[Image.Image], Tensor] | None = None
        self.class_names: tuple[str, ...] | None = None
        bricks = Bricks.of(spec)
        stem = build_stem(spec.channels, spec.stem, bricks.conv, bricks.stem_norm, bricks.activation)
        patch = spec.patch_size // spec.stem_stride
        patch_values = patch**2 * (spec.stem[-1] if spec.stem else spec.channels)
        self.encoding = bricks.encoding()
        self.tokens = Tokens(stem, patch, bricks.linear(patch_values, spec.width))
        self.blocks = nn.ModuleList(Block(spec, bricks) for _ in range(spec.depth))
        head = TokenHead if spec.head == "tokens" else PoolHead
        self.head = head(bricks.norm(spec.width), bricks.linear(spec.width, spec.num_classes))
        self.logits = Logits(spec.logit_scale, spec.bias)

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
        self._check(encoded, self.spec.channels, "encoded images")
        x = self.tokens(encoded)  # (B, h, w, D)
        height, width = x.shape[1:3]
        x = x.flatten(1, 2)  # (B, N, D)
        turn = None
        if self.spec.position == "sincos":
            x = x + constant("position", sincos_code(height, width, self.spec.width, like=x))
        elif self.spec.position == "rope":
            turn = rotation(height, width, self.spec.head_dim, like=x)
        for block in self.blocks:
            x = block(x, turn)
        return self.logits(self.head(x))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of RGB images (B, 3, H, W) in [0, 1]. Values are not looked at here."""
        return self.forward_encoded(self.encode(images))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Sigmoid for B-cos (each class on its own), softmax for conventional models; (..., K) -> (..., K)."""
        return logits.sigmoid() if self.dynamic_linear else logits.softmax(-1)

    def _check(self, t: Tensor, channels: int, what: str) -> None:
        require_float(t, what)
        if t.dim() != 4:
            raise ValueError(f"{what} must have shape (B, {channels}, H, W), found {tuple(t.shape)}")
        if t.shape[1] != channels:
            hint = ": give plain RGB, the model encodes it itself" if t.shape[1] == 6 and channels == 3 else ""
            raise ValueError(f"{what} must have {channels} channels, found {t.shape[1]} in {tuple(t.shape)}{hint}")
        weight = self.head.classify.weight
        if t.dtype != weight.dtype and not torch.is_autocast_enabled(t.device.type):
            raise TypeError(f"{what} are {t.dtype} but the model is {weight.dtype}: convert one with .to(dtype)")
        height, width = t.shape[2:]
        patch = self.spec.patch_size
        if not height or not width or height % patch or width % patch:
            raise ValueError(f"image sides must be multiples of the patch size {patch}, found {height} x {width}")
        if self.spec.position == "prior" and (height, width) != (self.spec.image_size, self.spec.image_size):
            size = self.spec.image_size
            raise ValueError(f"position 'prior' is tied to {size} x {size} images, found {height} x {width}")
