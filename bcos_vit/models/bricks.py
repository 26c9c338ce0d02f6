"""What the two families are made of: B-cos bricks and conventional ones in the same places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from bcos_vit.layers import (
    Attention,
    BcosConv2d,
    BcosLinear,
    Blur,
    GroupNorm,
    LayerNorm,
    Mlp,
    SixChannels,
    Standardised,
    Values,
    build_stem,
)
from bcos_vit.layers.mode import branch
from bcos_vit.layers.position import Rotation
from bcos_vit.models.spec import ViTSpec


@dataclass(frozen=True)
class Bricks:
    """What the two families are made of. ``linear`` may carry a bias, ``project`` never does."""

    encoding: Callable[[], SixChannels | Standardised]
    linear: Callable[[int, int], nn.Module]
    project: Callable[[int, int], nn.Module]
    value: Callable[[int, int], nn.Module]
    conv: Callable[..., nn.Module]
    norm: Callable[[int], nn.Module]
    stem_norm: Callable[[int], nn.Module]
    activation: Callable[[], nn.Module]
    blur: Callable[[], nn.Module]

    @classmethod
    def of(cls, spec: ViTSpec) -> Bricks:
        plain = partial(nn.Linear, bias=False)
        blur = Blur if spec.downsample == "blurred" else nn.Identity
        if spec.family == "standard":
            norm, stem_norm = partial(LayerNorm, bias=True), partial(GroupNorm, bias=True)
            return cls(Standardised, nn.Linear, plain, plain, nn.Conv2d, norm, stem_norm, nn.GELU, blur)
        linear = partial(BcosLinear, b=spec.b, max_out=spec.max_out)
        conv = partial(BcosConv2d, b=spec.b, max_out=spec.stem_max_out)
        value = linear if spec.value == "bcos" else Values
        return cls(SixChannels, linear, linear, value, conv, LayerNorm, GroupNorm, nn.Identity, blur)

    def stem(self, spec: ViTSpec) -> list[nn.Module]:
        """The convolutional stages before the patches, possibly none."""
        layers = self.conv, self.stem_norm, self.activation, self.blur
        return build_stem(spec.channels, spec.stem, spec.strides, *layers)


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
        x = branch("skip", x) + branch("attention", self.attention(x, turn))
        return x + branch("mlp", self.mlp(x))
