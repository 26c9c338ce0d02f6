"""From tokens to logits: the classifier over pooled or single tokens, then the logits' scale and constant bias."""

from __future__ import annotations

from torch import Tensor, nn

from bcos_vit.layers.mode import constant


class PoolHead(nn.Module):
    """Mean over tokens, norm, classifier: (B, N, D) -> (B, K)."""

    def __init__(self, norm: nn.Module, classify: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.classify = classify

    def features(self, x: Tensor) -> Tensor:
        """What the classifier gets: (B, N, D) -> (B, D)."""
        return self.norm(x.mean(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))


class TokenHead(PoolHead):
    """Norm and classify every token, then take the mean: (B, N, D) -> (B, K)."""

    def features(self, x: Tensor) -> Tensor:
        """What the classifier gets: (B, N, D) -> (B, N, D)."""
        return self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x)).mean(1)


class Logits(nn.Module):
    """``scale * x + bias`` for all classes alike, (B, K) -> (B, K). The bias is a constant, not the image."""

    def __init__(self, scale: float, bias: float) -> None:
        super().__init__()
        self.scale = scale
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + constant("bias", x.new_full(x.shape[-1:], self.bias))

    def extra_repr(self) -> str:
        return f"scale={self.scale}, bias={self.bias:.4g}"
