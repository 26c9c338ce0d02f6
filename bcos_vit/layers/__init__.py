"""The bricks, in the order in which an image meets them. Each is ``y = W(x) x`` while explaining."""

from bcos_vit.layers import forks as forks  # its import makes forked processes compute instead of wait
from bcos_vit.layers.attention import Attention, Values
from bcos_vit.layers.bcos import BcosConv2d, BcosLinear
from bcos_vit.layers.blur import Blur
from bcos_vit.layers.encoding import SixChannels, Standardised
from bcos_vit.layers.logits import Logits, PoolHead, TokenHead
from bcos_vit.layers.mlp import Mlp
from bcos_vit.layers.mode import constant, freeze, frozen
from bcos_vit.layers.norm import GroupNorm, LayerNorm
from bcos_vit.layers.tokens import StemStage, Tokens, build_stem, stem_strides

__all__ = [
    "Attention",
    "BcosConv2d",
    "BcosLinear",
    "Blur",
    "GroupNorm",
    "LayerNorm",
    "Logits",
    "Mlp",
    "PoolHead",
    "SixChannels",
    "Standardised",
    "StemStage",
    "TokenHead",
    "Tokens",
    "Values",
    "build_stem",
    "constant",
    "freeze",
    "frozen",
    "stem_strides",
]
