"""Kinds of residual block."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from diffkit.nn.base import ResnetBlock, Style
from diffkit.nn.init import conv, linear


class Ddpm(ResnetBlock):
    """The block of DDPM: the embedding shifts every channel between two convolutions.

    h = conv1(act(norm1(x))) + linear(e);  y = shortcut(x) + conv2(dropout(act(norm2(h)))): Ho et al. 2020,
    appendix B. The shortcut is a 1x1 convolution where the number of channels changes. conv2 starts at zero.
    """

    kind: Literal["ddpm"] = "ddpm"
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability that an element is dropped before the second convolution, in training."""

    def build(self, in_channels: int, out_channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return the block.

        Raises:
            ValueError: If the normalization doesn't fit the channels, or would hide the embedding: one that subtracts
                the mean of each single channel takes any shift out again.
        """
        return DdpmBlock(self, in_channels, out_channels, embedding_channels, style)


class ScaleShift(ResnetBlock):
    """The block of improved DDPM: the embedding scales and shifts the second normalization.

    h = conv1(act(norm1(x)));  (s, b) = linear(e);  y = shortcut(x) + conv2(dropout(act((1 + s) norm2(h) + b))):
    Nichol & Dhariwal 2021, section 3 (AdaGN of Dhariwal & Nichol 2021, eq. 7). The shortcut is a 1x1 convolution
    where the number of channels changes. conv2 starts at zero.
    """

    kind: Literal["scale_shift"] = "scale_shift"
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability that an element is dropped before the second convolution, in training."""

    def build(self, in_channels: int, out_channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return the block.

        Raises:
            ValueError: If the normalization doesn't fit the channels.
        """
        return ScaleShiftBlock(self, in_channels, out_channels, embedding_channels, style)


class _TwoConvolutions(nn.Module):
    """What both blocks are made of; they differ in how the embedding comes in.

    Sums go into the output of a convolution, which nothing else needs, so that no new tensor is made.
    """

    def __init__(
        self, dropout: float, in_channels: int, out_channels: int, embedding_channels: int, embedded: int, style: Style
    ) -> None:
        super().__init__()
        self.norm1 = style.norm.build(in_channels)
        self.conv1 = conv(in_channels, out_channels)
        self.embed = linear(embedding_channels, embedded)
        self.norm2 = style.norm.build(out_channels)
        self.conv2 = conv(out_channels, out_channels, scale=0)
        self.shortcut = nn.Identity() if in_channels == out_channels else conv(in_channels, out_channels, 1)
        self.activation = style.activation.build()
        self.dropout = nn.Dropout(dropout)

    def modulate(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Return the second normalization of `h` with the embedding brought in."""
        raise NotImplementedError

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map ``[N, in, H, W]`` and ``[N, embedding]`` to ``[N, out, H, W]``."""
        h = self.conv1(self.activation(self.norm1(x)))
        h = self.modulate(h, self.embed(embedding)[:, :, None, None])
        h = self.conv2(self.dropout(self.activation(h)))
        h += self.shortcut(x)
        return h  # type: ignore[no-any-return]


class DdpmBlock(_TwoConvolutions):
    """Computes what `Ddpm` says."""

    def __init__(self, spec: Ddpm, in_channels: int, out_channels: int, embedding_channels: int, style: Style) -> None:
        super().__init__(spec.dropout, in_channels, out_channels, embedding_channels, out_channels, style)
        if isinstance(self.norm2, nn.GroupNorm) and self.norm2.num_groups == out_channels:
            raise ValueError(
                f"{out_channels} groups of {out_channels} channels are one channel each, so the normalization would "
                "take out again what the embedding adds, and the block would not see the time. Set fewer norm.groups, "
                'more channels, or resnet = "scale_shift"'
            )

    def modulate(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Shift, then normalize."""
        h += embedding
        return self.norm2(h)  # type: ignore[no-any-return]


class ScaleShiftBlock(_TwoConvolutions):
    """Computes what `ScaleShift` says."""

    def __init__(
        self, spec: ScaleShift, in_channels: int, out_channels: int, embedding_channels: int, style: Style
    ) -> None:
        super().__init__(spec.dropout, in_channels, out_channels, embedding_channels, 2 * out_channels, style)

    def modulate(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Normalize, then scale and shift."""
        scale, shift = embedding.chunk(2, dim=1)
        return torch.addcmul(shift, self.norm2(h), 1 + scale)
