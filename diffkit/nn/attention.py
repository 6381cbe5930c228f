"""Kinds of attention between the places of a feature map."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from diffkit.nn.base import Attention, Norm, Style, divisors
from diffkit.nn.init import linear


class MultiHead(Attention):
    """What kinds of attention with several heads share: two ways to say how many."""

    heads: int = Field(1, ge=1)
    """Number of heads. It must divide the channels."""
    head_channels: int | None = Field(None, ge=1)
    """Channels of one head, where the number of heads should grow with the channels; it then replaces `heads`."""
    inner_channels: int | None = Field(None, ge=1)
    """Number of channels of all heads together, in place of that of the maps; the number or size of heads must then
    divide it."""
    skip_scale: float = Field(1.0, gt=0)
    """Factor of the output, the sum of the input and what attention adds. sqrt(1/2) keeps the variance of the sum."""
    norm: Norm | None = None
    """Normalization of the input, in place of the one that all parts share."""

    def count_heads(self, channels: int) -> int:
        """Return the number of heads for maps of so many channels.

        Raises:
            ValueError: If the channels cannot be split so; lists the numbers that can.
        """
        channels = self.inner_channels or channels
        name, size = ("heads", self.heads) if self.head_channels is None else ("head_channels", self.head_channels)
        if channels % size:
            parts = f"{size} heads" if name == "heads" else f"heads of {size} channels"
            raise ValueError(
                f"{channels} channels cannot be split into {parts}. "
                f"Allowed for {channels} channels: {name} = {divisors(channels)}"
            )
        return size if name == "heads" else channels // size


class FullAttention(MultiHead):
    """Every place attends to every other, with a residual.

    y = x + W softmax(Q Kᵀ / sqrt(d)) V with Q, K, V linear in norm(x): Vaswani et al. 2017, eq. 1, placed in the U-Net
    as Ho et al. 2020, appendix B. Cost grows with the square of the number of places. W starts at zero.
    """

    kind: Literal["self"] = "self"

    def build(self, channels: int, style: Style) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to the same shape.

        Raises:
            ValueError: If the heads or the normalization don't fit the channels.
        """
        return SelfAttention(self, channels, style)


class EfficientAttention(MultiHead):
    """Attention at a cost that is linear in the number of places, with a residual.

    y = x + W softmax_d(Q) (softmax_n(K)ᵀ V), where softmax_d runs over the channels of a head and softmax_n over the
    places: Shen et al. 2021, "Efficient Attention". W starts at zero.
    """

    kind: Literal["linear"] = "linear"
    heads: int = Field(4, ge=1)
    """Number of heads. It must divide the channels."""

    def build(self, channels: int, style: Style) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to the same shape.

        Raises:
            ValueError: If the heads or the normalization don't fit the channels.
        """
        return LinearAttention(self, channels, style)


class NoAttention(Attention):
    """No attention: the identity."""

    kind: Literal["none"] = "none"

    def build(self, channels: int, style: Style) -> nn.Module:
        """Return the identity."""
        return nn.Identity()


class _Heads(nn.Module):
    """Normalization, projections and residual around the attention of several heads."""

    def __init__(self, spec: MultiHead, channels: int, style: Style) -> None:
        super().__init__()
        inner = spec.inner_channels or channels
        self.heads = spec.count_heads(channels)
        self.head_channels = inner // self.heads
        self.skip_scale = spec.skip_scale
        self.norm = (spec.norm or style.norm).build(channels)
        self.qkv = linear(channels, 3 * inner)
        self.out = linear(inner, channels, scale=0)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the attention of heads: ``[N, heads, places, d]`` three times to the same shape."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` plus what its places say to each other, of the same shape."""
        n, c, h, w = x.shape
        places = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(places).view(n, h * w, 3, self.heads, self.head_channels).permute(2, 0, 3, 1, 4)
        mixed = self.out(self.mix(q, k, v).transpose(1, 2).flatten(2))
        x = x + mixed.transpose(1, 2).view(n, c, h, w)
        return x if self.skip_scale == 1 else x * self.skip_scale


class SelfAttention(_Heads):
    """Computes what `FullAttention` says."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return softmax(Q Kᵀ / sqrt(d)) V, by torch's fastest way."""
        return nn.functional.scaled_dot_product_attention(q, k, v)


class LinearAttention(_Heads):
    """Computes what `EfficientAttention` says."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return softmax_d(Q) (softmax_n(K)ᵀ V)."""
        return q.softmax(-1) @ (k.softmax(-2).transpose(-1, -2) @ v)
