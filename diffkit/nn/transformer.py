"""What the kinds of network that cut images into patches share."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from diffkit.data.base import DataInfo
from diffkit.errors import Problem
from diffkit.nn.base import Activation, Model, TimeEmbedding, divisors


class PatchModel(Model):
    """Settings and checks of transformers over the patches of an image."""

    patch: int = Field(2, ge=1, le=4096)
    """Side of the patches in pixels. It must divide the height and the width of the images. Half the side makes four
    times as many patches, and attention takes sixteen times the work."""
    width: int = Field(384, ge=4, le=65_536, multiple_of=4)
    """Number of channels of each patch's features."""
    depth: int = Field(12, ge=1, le=1000)
    """Number of blocks."""
    heads: int = Field(6, ge=1)
    """Number of heads of each attention. It must divide the width."""
    mlp_ratio: float = Field(4.0, gt=0, le=64)
    """Number of hidden channels of each block's MLP as a multiple of the width, rounded down."""
    embedding: TimeEmbedding = Field("sinusoidal", validate_default=True)
    """Features of the time."""
    activation: Activation = Field("gelu", validate_default=True)
    """Non-linearity of the blocks' MLPs."""
    checkpoint: bool = False
    """Gradient checkpointing: training keeps what each block takes, and computes what is within once more for the
    gradient. It takes more time and less memory; the result is the same to the bit."""

    @property
    def hidden(self) -> int:
        """Number of hidden channels of an MLP."""
        return max(1, int(self.width * self.mlp_ratio))

    @property
    def features(self) -> int:
        """Number of features of the time."""
        return self.width

    def times_known(self) -> int | None:
        """Return the number T if the embedding only knows the times 0..T-1, or None if it takes any."""
        return self.embedding.times_known()

    def problems(self, data: DataInfo) -> list[Problem]:
        """Return what doesn't fit together or fit the data, with keys relative to the model's table."""
        problems = []
        size = f"{data.height}x{data.width}"
        if not self.divides(data.height, data.width):
            message = (
                f"patches of {self.patch}x{self.patch} cannot cover images of {size} (height x width). "
                f"Allowed for these images: patch = {divisors(math.gcd(data.height, data.width))}"
            )
            problems.append(Problem("patch", message, self.patch))
        if self.width % self.heads:
            message = (
                f"a width of {self.width} cannot be split into {self.heads} heads. "
                f"Allowed for this width: heads = {divisors(self.width)}"
            )
            problems.append(Problem("heads", message, self.heads))
        try:
            with torch.device("meta"):
                self.embedding.build(self.features)
        except ValueError as error:
            problems.append(Problem("embedding", str(error)))
        return [*problems, *self.problems_of_labels(data)]

    def divides(self, height: int, width: int) -> bool:
        """Return whether patches cover images of a size."""
        return height % self.patch == 0 and width % self.patch == 0


class TokenAttention(nn.Module):
    """Every token attends to every other: Vaswani et al. 2017, section 3.2.2.

    y = W softmax(Q Kᵀ / sqrt(d)) V for each head, with Q, K and V linear in x.

    Args:
        width: Number of channels.
        heads: Number of heads, which divides the width.
        bias: Whether Q, K and V have a bias.
    """

    def __init__(self, width: int, heads: int, *, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, L, width]`` to the same shape."""
        n, length, width = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(n, length, width))  # type: ignore[no-any-return]


def mlp(spec: PatchModel) -> nn.Sequential:
    """Return the MLP of a block: linear, activation, linear."""
    return nn.Sequential(
        nn.Linear(spec.width, spec.hidden), spec.activation.build(), nn.Linear(spec.hidden, spec.width)
    )


def patches(spec: PatchModel, in_channels: int) -> nn.Conv2d:
    """Return the linear map of each patch: ``[N, in_channels, H, W]`` to ``[N, width, H/patch, W/patch]``."""
    return nn.Conv2d(in_channels, spec.width, spec.patch, stride=spec.patch)


def join_patches(tokens: Tensor, height: int, patch: int) -> Tensor:
    """Put patches together.

    Args:
        tokens: Pixels of patches ``[N, L, patch * patch * C]``, the patches row by row, and in a patch its pixels row
            by row, each with its C channels.
        height: Height of the images.
        patch: Side of the patches.

    Returns:
        Images ``[N, C, height, W]``.
    """
    n, length, size = tokens.shape
    rows = height // patch
    grid = tokens.reshape(n, rows, length // rows, patch, patch, size // patch**2)
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
