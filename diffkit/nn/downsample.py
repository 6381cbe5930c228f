"""Kinds of downsampling. All halve even sides; only `resnet` uses the embedding."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from diffkit.nn.base import Downsample, Style
from diffkit.nn.fir import Border, Taps, fir_down
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


class FirDown(Downsample):
    """A fixed separable filter at every second place, and a 3x3 convolution behind it where asked for.

    NCSN++: Song et al. 2021, "Score-based generative modeling", after Karras et al. 2020, "StyleGAN2".
    """

    kind: Literal["fir"] = "fir"
    filter: Taps = (1.0, 3.0, 3.0, 1.0)
    """The filter, of even length; its sum is scaled to 1. [1, 1] is the mean of 2x2 squares."""
    border: Border = "zeros"
    """What the filter sees beyond the border: zeros, or the maps mirrored there."""
    conv: bool = False
    """A 3x3 convolution behind the filter."""

    def build(self, channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to ``[N, channels, H/2, W/2]``."""
        return Unconditioned(
            fir_down(self.filter, border=self.border), *([conv(channels, channels)] if self.conv else [])
        )


class ResnetDown(Downsample):
    """A residual block of the level's kind that halves the sides on its way, and sees the embedding.

    Both its branches are filtered: Dhariwal & Nichol 2021, section 3, after Brock et al. 2019, "BigGAN".
    """

    kind: Literal["resnet"] = "resnet"
    filter: Taps = (1.0, 1.0)
    """The filter, of even length; its sum is scaled to 1. [1, 1] is the mean of 2x2 squares, [1, 3, 3, 1] NCSN++'s."""
    project: bool = False
    """A 1x1 convolution on the shortcut (EDM's networks)."""

    def build(self, channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to ``[N, channels, H/2, W/2]``.

        Raises:
            ValueError: If the level's residual block cannot resample.
        """
        return style.block().build_resampling(
            channels, embedding_channels, style, fir_down(self.filter), project=self.project
        )


class Unconditioned(nn.Module):
    """Layers in a row, called with an embedding that they don't use."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return the output of the last layer."""
        return self.layers(x)  # type: ignore[no-any-return]
