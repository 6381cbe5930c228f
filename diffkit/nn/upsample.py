"""Kinds of upsampling. All double the sides; only `resnet` uses the embedding."""

from __future__ import annotations

from typing import Literal

from torch import nn

from diffkit.nn.base import Style, Upsample
from diffkit.nn.downsample import Unconditioned
from diffkit.nn.fir import Border, Taps, fir_up
from diffkit.nn.init import conv, init


class Nearest(Upsample):
    """Each pixel becomes a 2x2 square."""

    kind: Literal["nearest"] = "nearest"

    def build(self, channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to ``[N, channels, 2H, 2W]``."""
        return Unconditioned(nn.Upsample(scale_factor=2.0, mode="nearest"))


class NearestConv(Upsample):
    """Each pixel becomes a 2x2 square, then a 3x3 convolution (DDPM: Ho et al. 2020)."""

    kind: Literal["nearest_conv"] = "nearest_conv"

    def build(self, channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to ``[N, channels, 2H, 2W]``."""
        return Unconditioned(nn.Upsample(scale_factor=2.0, mode="nearest"), conv(channels, channels))


class Transpose(Upsample):
    """A transposed 4x4 convolution of stride 2."""

    kind: Literal["transpose"] = "transpose"

    def build(self, channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to ``[N, channels, 2H, 2W]``."""
        return Unconditioned(init(nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)))


class BilinearConv(Upsample):
    """Bilinear interpolation, then a 3x3 convolution."""

    kind: Literal["bilinear_conv"] = "bilinear_conv"

    def build(self, channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to ``[N, channels, 2H, 2W]``."""
        return Unconditioned(nn.Upsample(scale_factor=2.0, mode="bilinear"), conv(channels, channels))


class PixelShuffle(Upsample):
    """A 3x3 convolution to four times the channels, which become the pixels of 2x2 squares: Shi et al. 2016."""

    kind: Literal["pixel_shuffle"] = "pixel_shuffle"

    def build(self, channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to ``[N, channels, 2H, 2W]``."""
        return Unconditioned(conv(channels, 4 * channels), nn.PixelShuffle(2))


class FirUp(Upsample):
    """Zeros between the pixels and a fixed separable filter, and a 3x3 convolution behind it where asked for.

    NCSN++: Song et al. 2021, "Score-based generative modeling", after Karras et al. 2020, "StyleGAN2".
    """

    kind: Literal["fir"] = "fir"
    filter: Taps = (1.0, 3.0, 3.0, 1.0)
    """The filter, of even length; its sum is scaled to 4. [1, 1] repeats every pixel."""
    border: Border = "zeros"
    """What the filter sees beyond the border: zeros, or the maps mirrored there."""
    conv: bool = False
    """A 3x3 convolution behind the filter."""

    def build(self, channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to ``[N, channels, 2H, 2W]``."""
        return Unconditioned(
            fir_up(self.filter, border=self.border), *([conv(channels, channels)] if self.conv else [])
        )


class ResnetUp(Upsample):
    """A residual block of the level's kind that doubles the sides on its way, and sees the embedding.

    Both its branches are filtered: Dhariwal & Nichol 2021, section 3, after Brock et al. 2019, "BigGAN".
    """

    kind: Literal["resnet"] = "resnet"
    filter: Taps = (1.0, 1.0)
    """The filter, of even length; its sum is scaled to 4. [1, 1] repeats every pixel, [1, 3, 3, 1] is NCSN++'s."""
    project: bool = False
    """A 1x1 convolution on the shortcut (EDM's networks)."""

    def build(self, channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to ``[N, channels, 2H, 2W]``.

        Raises:
            ValueError: If the level's residual block cannot resample.
        """
        return style.block().build_resampling(
            channels, embedding_channels, style, fir_up(self.filter), project=self.project
        )
