"""The feed-forward half of a block."""

from __future__ import annotations

from torch import Tensor, nn


class Mlp(nn.Module):
    """``contract(activation(expand(norm(x))))``, (B, N, D) -> (B, N, D). B-cos layers need no activation."""

    def __init__(self, *, norm: nn.Module, expand: nn.Module, activation: nn.Module, contract: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.expand = expand
        self.activation = activation
        self.contract = contract

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(self.activation(self.expand(self.norm(x))))
