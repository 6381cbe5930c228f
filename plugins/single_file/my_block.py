"""A plugin in one file: a residual block that time and class open and close like a gate.

A recipe loads it with ``plugins = ["./my_block.py"]``, the command line with ``--plugin my_block.py``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

import diffkit
from diffkit.nn.base import ResnetBlock, Style


class Gated(ResnetBlock):
    r"""Residual block whose channels are gated by the embedding e of time and class.

    .. math:: y = \mathrm{skip}(x) + \mathrm{sigmoid}(W e) \odot \mathrm{conv}(\mathrm{act}(\mathrm{norm}(x)))
    """

    kind: Literal["gated"] = "gated"
    kernel_size: Literal[1, 3, 5] = Field(3)
    """Side of the convolution's kernel, in pixels."""

    def build(self, in_channels: int, out_channels: int, embedding_channels: int, style: Style) -> nn.Module:
        """Return the block."""
        return GatedBlock(self, in_channels, out_channels, embedding_channels, style)


class GatedBlock(nn.Module):
    """The module of `Gated`."""

    def __init__(self, spec: Gated, in_channels: int, out_channels: int, embedding_channels: int, style: Style) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            style.norm.build(in_channels),
            style.activation.build(),
            nn.Conv2d(in_channels, out_channels, spec.kernel_size, padding="same"),
        )
        self.gate = nn.Sequential(nn.Linear(embedding_channels, out_channels), nn.Sigmoid())
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` and ``[N, E]`` to ``[N, D, H, W]``."""
        y: Tensor = self.skip(x) + self.gate(embedding)[:, :, None, None] * self.branch(x)
        return y


@diffkit.hookimpl
def register_components() -> list[type[ResnetBlock]]:
    """Add the block."""
    return [Gated]
