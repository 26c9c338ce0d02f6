"""The live reference (the ``bcos`` package): its models, and whether ours computes the same."""

from __future__ import annotations

import math
import warnings
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import bcos_vit
from bcos_vit.models.spec import ViTSpec
from bcos_vit.models.vit import ViT
from bcos_vit.models.zoo import CARDS
from toys import deviation

try:
    import bcos.models.pretrained as published
    from bcos.models.vit import SimpleViT
    from bcos.modules import DetachableGNLayerNorm2d, norms
    from bcos.modules.bcosconv2d import BcosConv2d
    from bcos.modules.bcoslinear import BcosLinear
    from bcos.modules.common import BcosSequential
    from bcos.modules.logitlayer import LogitLayer
except ModuleNotFoundError as error:
    pytest.skip(f"there is no live reference to compare with: {error}", allow_module_level=True)

NAMES = [name for name, card in CARDS.items() if str(card.source).startswith("https:")]
"""The names of the zoo that the reference has, too."""
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def entry_point(name: str, depth: int) -> nn.Module:
    """The reference's own model of that name without weights, cut to ``depth`` blocks."""
    with torch.device("meta"):  # its weights are ours, so none need be drawn
        model = getattr(published, name.removeprefix("bcos_"))(pretrained=False)
    transformer = (model[0] if name.startswith("bcos") else model).transformer
    for i in range(depth, len(transformer)):
        delattr(transformer, f"encoder_{i}")
    return model.eval()


def by_hand(spec: ViTSpec) -> nn.Module:
    """The reference's classes put together for any spec; its entry points fix the bias and most sizes."""
    sizes = {
        "image_size": spec.image_size // spec.stem_stride,
        "patch_size": spec.patch_size // spec.stem_stride,
        "num_classes": spec.num_classes,
        "channels": spec.channels,
        "conv_stem": list(spec.stem) or None,
        "dim": spec.width,
        "depth": spec.depth,
        "heads": spec.heads,
        "mlp_dim": spec.mlp_width,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns whoever builds it this way
        if spec.family == "standard":
            layers = {"linear_layer": nn.Linear, "conv2d_layer": nn.Conv2d, "act_layer": nn.GELU}
            return SimpleViT(**sizes, **layers, norm_layer=nn.LayerNorm, norm2d_layer=DetachableGNLayerNorm2d).eval()
        vit = SimpleViT(
            **sizes,
            linear_layer=partial(BcosLinear, b=spec.b, max_out=spec.max_out),
            conv2d_layer=partial(BcosConv2d, b=spec.b, max_out=spec.stem_max_out),
            act_layer=nn.Identity,
            norm_layer=norms.NoBias(norms.DetachableLayerNorm),
            norm2d_layer=norms.NoBias(DetachableGNLayerNorm2d),
        )
    return BcosSequential(vit, LogitLayer(logit_bias=math.log(1 / (spec.num_classes - 1)))).eval()


def clearest(logits: Tensor) -> Tensor:
    """(B, 3): every image's lowest logit and its two highest.

    In between, a logit is a difference of larger numbers: its row's scale |cos| has lost digits in any float32.
    """
    return logits.argsort(1)[:, [0, -2, -1]]


def reference_rows(reference: nn.Module, encoded: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (B, T, 6, H, W) and logits (B, T) as the reference makes them: gradients in its explanation mode."""
    encoded = encoded.detach().requires_grad_()
    with reference.explanation_mode():
        logits = reference(encoded).gather(1, classes)
        rows = [torch.autograd.grad(logit.sum(), encoded, retain_graph=True)[0] for logit in logits.unbind(1)]
    return torch.stack(rows, dim=1), logits.detach()


def assert_same(model: ViT, reference: nn.Module, images: Tensor, slack: float = 1) -> None:
    tolerance = slack * TOLERANCE[images.dtype]
    with torch.no_grad():
        encoded = model.encode(images)
        logits, expected = model(images), reference(encoded)
    assert deviation(logits, expected) <= tolerance
    if not model.dynamic_linear:
        return
    classes = clearest(expected)
    rows, explained_logits = reference_rows(reference, encoded, classes)
    e = bcos_vit.explain(model, images, classes)
    assert deviation(e.logit, explained_logits) <= tolerance
    for t in range(classes.shape[1]):  # each by its own maximum
        assert deviation(e.weights[:, t], rows[:, t]) <= tolerance
        assert deviation(e.contributions[:, t], (rows[:, t] * encoded).sum(1)) <= tolerance
