"""The residual block that normalizes behind its convolutions."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from diffkit.nn.base import ResnetBlock, Style
from diffkit.nn.convolution import Conv2d
from diffkit.nn.init import conv, init, linear, silence
from diffkit.nn.norm import activated


class PostNorm(ResnetBlock):
    """The block of denoising-diffusion-pytorch: convolution, then normalization, then activation, twice.

    (s, b) = linear(e);  h = dropout(act((1 + s) norm1(conv1(x)) + b));  y = shortcut(x) + act(norm2(conv2(h))). The
    shortcut is a 1x1 convolution where the number of channels changes. norm2 starts with weights of zero.
    """

    kind: Literal["post_norm"] = "post_norm"
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability that an element is dropped before the second convolution, in training."""
    standardize: bool = False
    """Subtract from each output channel's weights of the 3x3 convolutions their mean, and divide by their standard
    deviation (Qiao et al. 2019, "Weight Standardization"). Goes with the norm `group`."""

    def build(self, in_channels: int, out_channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return the block.

        Raises:
            ValueError: If the normalization doesn't fit the channels.
        """
        shortcut = conv(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        return PostNormBlock(self, (in_channels, out_channels, embedding_channels), style, shortcut, nn.Identity())

    def build_resampling(
        self, channels: int, embedding_channels: int, style: Style, resample: nn.Module, *, project: bool
    ) -> nn.Module:
        """Return a block that resamples before its first convolution, and so does its shortcut.

        Raises:
            ValueError: If the normalization doesn't fit the channels.
        """
        shortcut = conv(channels, channels, 1) if project else nn.Identity()
        return PostNormBlock(self, (channels, channels, embedding_channels), style, shortcut, resample)


class PostNormBlock(nn.Module):
    """Computes what `PostNorm` says.

    Args:
        spec: The settings.
        channels: Numbers of channels of the input, the output and the embedding.
        style: What the network's parts share.
        shortcut: What the input goes through beside the branch.
        resample: What the input goes through first.
    """

    def __init__(
        self, spec: PostNorm, channels: tuple[int, int, int], style: Style, shortcut: nn.Module, resample: nn.Module
    ) -> None:
        super().__init__()
        inside, outside, embedding = channels
        make = StandardizedConv if spec.standardize else Conv2d
        self.conv1 = init(make(inside, outside, 3, padding=1))
        self.norm1 = style.norm.build(outside)
        self.embed = linear(embedding, 2 * outside)
        self.conv2 = init(make(outside, outside, 3, padding=1))
        self.norm2 = style.norm.build(outside)
        silence(self.norm2, self.conv2)
        self.activation = style.activation.build()
        self.dropout = nn.Dropout(spec.dropout)
        self.shortcut = shortcut
        self.resample = resample

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map ``[N, in, H, W]`` and ``[N, embedding]`` to ``[N, out, H, W]``, or other sides where it resamples."""
        x = self.resample(x)
        scale, shift = self.embed(embedding).chunk(2, dim=1)
        h = self.dropout(activated(self.norm1, self.activation, self.conv1(x), scale, shift))
        h = activated(self.norm2, self.activation, self.conv2(h))
        return h + self.shortcut(x)  # type: ignore[no-any-return]


class StandardizedConv(Conv2d):
    """A convolution whose weights have, for each output channel, mean 0 and variance 1: Qiao et al. 2019."""

    EPS = 1e-5
    """Added to the variance."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of ``[N, in, H, W]``."""
        variance, mean = torch.var_mean(self.weight.float(), dim=(1, 2, 3), correction=0, keepdim=True)
        weight = (self.weight - mean) * (variance + self.EPS).rsqrt()
        return self.convolve(x, weight.to(x.dtype))
