"""Kinds of attention that look up learned places besides the image's own."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from diffkit.nn.base import Attention, Norm, Style
from diffkit.nn.init import conv, init, silence


class Memory(Attention):
    """What the kinds with a memory share."""

    heads: int = Field(4, ge=1)
    """Number of heads."""
    head_channels: int = Field(32, ge=1)
    """Channels of one head. The heads together need not have the maps' number of channels."""
    memory: int = Field(4, ge=0)
    """Number of learned keys and values of each head, which all images share."""
    norm: Norm | None = None
    """Normalization, in place of the one that all parts share."""


class MemoryAttention(Memory):
    """Every place attends to every other and to a learned memory, with a residual.

    y = x + W softmax(Q [K_m, K]ᵀ / sqrt(d)) [V_m, V] with Q, K, V linear in norm(x) without bias, and learned K_m, V_m:
    full attention of denoising-diffusion-pytorch, after Sukhbaatar et al. 2019. W starts at zero.
    """

    kind: Literal["memory"] = "memory"

    def build(self, channels: int, style: Style) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to the same shape.

        Raises:
            ValueError: If the normalization doesn't fit the channels.
        """
        return FullMemoryAttention(self, channels, style)


class LinearMemoryAttention(Memory):
    """Attention with a learned memory at a cost that is linear in the number of places, with a residual.

    y = x + norm_out(W softmax_d(Q) / sqrt(d) (softmax_n([K_m, K])ᵀ [V_m, V])), where softmax_d runs over the channels
    of a head and softmax_n over the places and the memory: linear attention of denoising-diffusion-pytorch, after Shen
    et al. 2021, "Efficient Attention". The weights of norm_out start at zero.
    """

    kind: Literal["linear_memory"] = "linear_memory"
    average: bool = False
    """Divide the values by the number of places (denoising-diffusion-pytorch before version 1.7.4)."""

    def build(self, channels: int, style: Style) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to the same shape.

        Raises:
            ValueError: If the normalization doesn't fit the channels.
        """
        return LinearAttentionWithMemory(self, channels, style)


class _Remembering(nn.Module):
    """Normalization, projections, memory and residual."""

    def __init__(self, spec: Memory, channels: int, style: Style) -> None:
        super().__init__()
        inner = spec.heads * spec.head_channels
        self.heads, self.head_channels = spec.heads, spec.head_channels
        self.norm = (spec.norm or style.norm).build(channels)
        self.qkv = init(nn.Conv2d(channels, 3 * inner, 1, bias=False))
        self.memory = None
        if spec.memory:
            self.memory = nn.Parameter(torch.randn(2, spec.heads, spec.memory, spec.head_channels))
        self.out = conv(inner, channels, 1)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the attention of heads: ``[N, heads, places, d]``, and keys and values of more places."""
        raise NotImplementedError

    def attend(self, x: Tensor) -> Tensor:
        """Return what the places and the memory say to each place, of the shape of `x`."""
        n, _, height, width = x.shape
        shape = (n, 3, self.heads, self.head_channels, height * width)
        q, k, v = self.qkv(self.norm(x)).view(shape).permute(1, 0, 2, 4, 3)
        if self.memory is not None:
            memory_k, memory_v = self.memory.expand(n, -1, -1, -1, -1).transpose(0, 1)
            k, v = torch.cat((memory_k, k), dim=2), torch.cat((memory_v, v), dim=2)
        mixed = self.mix(q, k, v).transpose(2, 3).reshape(n, -1, height, width)
        return self.out(mixed)  # type: ignore[no-any-return]


class FullMemoryAttention(_Remembering):
    """Computes what `MemoryAttention` says."""

    def __init__(self, spec: MemoryAttention, channels: int, style: Style) -> None:
        super().__init__(spec, channels, style)
        init(self.out, scale=0)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return softmax(Q Kᵀ / sqrt(d)) V."""
        return nn.functional.scaled_dot_product_attention(q, k, v)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` plus the attention, of the same shape."""
        return x + self.attend(x)


class LinearAttentionWithMemory(_Remembering):
    """Computes what `LinearMemoryAttention` says."""

    def __init__(self, spec: LinearMemoryAttention, channels: int, style: Style) -> None:
        super().__init__(spec, channels, style)
        self.average = spec.average
        self.norm_out = (spec.norm or style.norm).build(channels)
        silence(self.norm_out, self.out)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return softmax_d(Q) / sqrt(d) (softmax_n(K)ᵀ V), over the number of places with `average`."""
        factor = self.head_channels**-0.5 / (q.shape[2] if self.average else 1)
        mixed: Tensor = factor * (q.softmax(-1) @ (k.softmax(-2).transpose(-1, -2) @ v))
        return mixed

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` plus the attention, of the same shape."""
        return x + self.norm_out(self.attend(x))  # type: ignore[no-any-return]
