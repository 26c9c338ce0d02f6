"""From tokens to logits: the classifier over pooled or single tokens, then the logits' scale and constant bias."""

from __future__ import annotations

from torch import Tensor, nn

from bcos_vit.layers.mode import at_least_float32, constant, is_autocast, is_frozen, stage


class PoolHead(nn.Module):
    """Mean over tokens, norm, classifier: (B, N, D) -> (B, K)."""

    def __init__(self, norm: nn.Module, classify: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.classify = classify

    def features(self, x: Tensor) -> Tensor:
        """What the classifier gets: (B, N, D) -> (B, D)."""
        return self.norm(stage("pooled", x.mean(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))


class TokenHead(PoolHead):
    """Norm and classify every token, then take the mean: (B, N, D) -> (B, K)."""

    def features(self, x: Tensor) -> Tensor:
        """What the classifier gets: (B, N, D) -> (B, N, D)."""
        return self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        return stage("scores", self.classify(self.features(x))).mean(1)


class Logits(nn.Module):
    """``scale * x + bias`` for all classes alike, (B, K) -> (B, K). The bias is a constant, not the image.

    Under autocast logits are float32: beside the bias of a thousand classes, bfloat16 keeps two digits of ``x``. While
    explaining they stay as they are, and say by their dtype how exact a ledger can be.
    """

    def __init__(self, scale: float, bias: float) -> None:
        super().__init__()
        self.scale = scale
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        if is_autocast(x) and not is_frozen():
            x = x.to(at_least_float32(x.dtype))
        return self.scale * x + constant("bias", x.new_full(x.shape[-1:], self.bias))

    def extra_repr(self) -> str:
        return f"scale={self.scale}, bias={self.bias:.4g}"
