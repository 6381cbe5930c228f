"""Kinds of upsampling. All double the sides; none of them uses the embedding."""

from __future__ import annotations

from typing import Literal

from torch import nn

from diffkit.nn.base import Style, Upsample
from diffkit.nn.downsample import Unconditioned
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
    """A 3x3 convolution to four times the channels, which become the pixels of 2x2 squares: Shi et al. 2016, eq. 4."""

    kind: Literal["pixel_shuffle"] = "pixel_shuffle"

    def build(self, channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to ``[N, channels, 2H, 2W]``."""
        return Unconditioned(conv(channels, 4 * channels), nn.PixelShuffle(2))
