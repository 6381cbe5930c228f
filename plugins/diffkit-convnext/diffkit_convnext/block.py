"""The ConvNeXt block."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from diffkit.nn.base import ResnetBlock, Style


class ConvNeXt(ResnetBlock):
    r"""ConvNeXt block of Liu et al. 2022 that sees time and class by scale and shift after its norm.

    .. math::
        h &= \mathrm{LayerNorm}(\mathrm{depthwise}(x)) \\
        h &= (1 + s(e)) \, h + b(e) \\
        y &= \mathrm{skip}(x) + \gamma \, W_2 \, \mathrm{GELU}(W_1 h)

    The depthwise convolution mixes places, one channel at a time; the pointwise :math:`W_1` and :math:`W_2` mix
    channels, one place at a time, and are `expansion` times wider in between; :math:`\gamma` is a learned scale
    for each channel. This is the block in Figure 4 of "A ConvNet for the 2020s" (arXiv:2201.03545), which has no
    time. Time and class come in as in section 3.1 of Dhariwal & Nichol 2021 (arXiv:2105.05233): a linear layer makes
    one scale s and one shift b for each channel from the embedding :math:`e`, which the model has put through its
    activation. Where the number of channels changes, the skip is a pointwise convolution.

    LayerNorm and GELU belong to the block: it does not use the model's own norm and activation.
    """

    kind: Literal["convnext"] = "convnext"
    kernel_size: int = Field(7, ge=1, le=31)
    """Side of the depthwise convolution's kernel, in pixels; odd."""
    expansion: int = Field(4, ge=1, le=16)
    """How many times wider than its output the block is inside."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability of zeroing an activation before the last layer, in training."""
    layer_scale: float = Field(1e-6, ge=0, le=1)
    """First value of the learned scale of each channel. With a small one the block begins as good as the identity."""

    @field_validator("kernel_size")
    @classmethod
    def _is_odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"must be odd, so that the output is as large as the input: {value - 1} or {value + 1}")
        return value

    def build(self, in_channels: int, out_channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return the block; it keeps the memory format channels_last."""
        return ConvNeXtBlock(self, in_channels, out_channels, embedding_channels)


class ConvNeXtBlock(nn.Module):
    """The module of `ConvNeXt`.

    Args:
        spec: The settings.
        in_channels: Channels C of the input.
        out_channels: Channels D of the output.
        embedding_channels: Channels E of the embedding.
    """

    def __init__(self, spec: ConvNeXt, in_channels: int, out_channels: int, embedding_channels: int) -> None:
        super().__init__()
        width = spec.expansion * out_channels
        self.depthwise = nn.Conv2d(in_channels, in_channels, spec.kernel_size, padding="same", groups=in_channels)
        self.norm = nn.LayerNorm(in_channels, eps=1e-6)
        self.scale_shift = nn.Linear(embedding_channels, 2 * in_channels)
        self.expand = nn.Linear(in_channels, width)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(spec.dropout)
        self.contract = nn.Linear(width, out_channels)
        self.layer_scale = nn.Parameter(torch.full((out_channels,), spec.layer_scale))
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` and ``[N, E]`` to ``[N, D, H, W]``."""
        h = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        scale, shift = self.scale_shift(embedding)[:, None, None].chunk(2, dim=-1)
        h = (1 + scale) * h + shift
        h = self.contract(self.dropout(self.activation(self.expand(h))))
        y: Tensor = self.skip(x) + (self.layer_scale * h).permute(0, 3, 1, 2)
        return y
