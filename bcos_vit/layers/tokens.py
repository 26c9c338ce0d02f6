"""From an encoded image to a grid of tokens: an optional convolutional stem, then patches, then a linear map."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn


class StemStage(nn.Module):
    """A 3x3 convolution, a norm and an activation, (B, C, H, W) -> (B, C', H', W'); first, perhaps, a blur."""

    def __init__(self, conv: nn.Module, norm: nn.Module, activation: nn.Module, blur: nn.Module | None = None) -> None:
        super().__init__()
        self.blur = nn.Identity() if blur is None else blur
        self.conv = conv
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(self.blur(x))))


def stem_strides(channels: int, stem: Sequence[int]) -> tuple[int, ...]:
    """Published stride of every stem convolution: 2 whenever the channel number grows, else 1 (arXiv 2106.14881)."""
    return tuple(2 if out > into else 1 for into, out in zip((channels, *stem), stem, strict=False))


class Tokens(nn.Module):
    """(B, C, H, W) -> (B, H/P, W/P, D): stem, then patches flattened row by row with channels innermost.

    Parameters
    ----------
    stem
        The convolutional stages, possibly none.
    patch
        Side of a patch in pixels of the stem's output.
    project
        (..., patch * patch * channels) -> (..., D).
    """

    def __init__(self, stem: Sequence[nn.Module], patch: int, project: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(*stem)
        self.patch = patch
        self.project = project

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        p = self.patch
        x = x.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # (B, C, h, p, w, p)
        return self.project(x.permute(0, 2, 4, 3, 5, 1).flatten(3))


def build_stem(
    channels: int,
    stem: Sequence[int],
    strides: Sequence[int],
    conv: Callable[..., nn.Module],
    norm: Callable[[int], nn.Module],
    activation: Callable[[], nn.Module],
    blur: Callable[[], nn.Module] = nn.Identity,
) -> list[nn.Module]:
    """The stages of a stem: from ``channels`` to ``stem`` channels, and a ``blur`` before a stride."""
    stages: list[nn.Module] = []
    for out, stride in zip(stem, strides, strict=True):
        before = blur() if stride > 1 else None
        stages.append(StemStage(conv(channels, out, 3, stride=stride, padding=1), norm(out), activation(), before))
        channels = out
    return stages
