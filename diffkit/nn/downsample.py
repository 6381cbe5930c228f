"""Kinds of downsampling. All halve even sides; none of them uses the embedding."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from diffkit.nn.base import Downsample, Style
from diffkit.nn.init import conv, init


class ConvDown(Downsample):
    """A convolution of stride 2, padded by one on every side."""

    kind: Literal["conv"] = "conv"
    kernel: Literal[3, 4] = 3
    """Side of the kernel. With 4 every pixel is seen by as many outputs as any other."""

    def build(self, channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to ``[N, channels, H/2, W/2]``."""
        return Unconditioned(conv(channels, channels, self.kernel, stride=2))


class ConvAsymmetric(Downsample):
    """A 3x3 convolution of stride 2, padded by one at the right and the bottom only.

    This is what TensorFlow's "SAME" padding does, and so DDPM's code (Ho et al. 2020).
    """

    kind: Literal["conv_asymmetric"] = "conv_asymmetric"

    def build(self, channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to ``[N, channels, H/2, W/2]``."""
        return Unconditioned(nn.ZeroPad2d((0, 1, 0, 1)), init(nn.Conv2d(channels, channels, 3, stride=2)))


class AvgPool(Downsample):
    """The mean of each 2x2 square."""

    kind: Literal["avg_pool"] = "avg_pool"

    def build(self, channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to ``[N, channels, H/2, W/2]``."""
        return Unconditioned(nn.AvgPool2d(2))


class MaxPool(Downsample):
    """The maximum of each 2x2 square."""

    kind: Literal["max_pool"] = "max_pool"

    def build(self, channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to ``[N, channels, H/2, W/2]``."""
        return Unconditioned(nn.MaxPool2d(2))


class PixelUnshuffle(Downsample):
    """The four pixels of each 2x2 square as channels, mixed by a 1x1 convolution: nothing is thrown away first."""

    kind: Literal["pixel_unshuffle"] = "pixel_unshuffle"

    def build(self, channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to ``[N, channels, H/2, W/2]``."""
        return Unconditioned(nn.PixelUnshuffle(2), conv(4 * channels, channels, 1))


class Unconditioned(nn.Module):
    """Layers in a row, called with an embedding that they don't use."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return the output of the last layer."""
        return self.layers(x)  # type: ignore[no-any-return]
