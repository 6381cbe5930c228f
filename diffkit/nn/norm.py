"""Kinds of normalization."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from diffkit.kernels import normalization
from diffkit.nn.base import Norm, divisors


class Group(Norm):
    """Normalizes groups of channels over all places (GroupNorm).

    y = (x - mean) / sqrt(var + eps) * weight + bias, with mean and variance of each image over a group's channels
    and all places: Wu & He 2018, "Group Normalization".
    """

    kind: Literal["group"] = "group"
    groups: int = Field(32, ge=1)
    """Number of groups. It must divide every number of channels that the network normalizes."""
    min_group: int | None = Field(None, ge=1)
    """Least number of channels of a group: where there are too few channels for that, there are fewer groups (NCSN++
    has 4). No limit by default."""
    eps: float = Field(1e-6, gt=0)
    """Added to the variance."""

    def build(self, channels: int) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to the same shape.

        Raises:
            ValueError: If the channels cannot be split into so many equal groups; lists the numbers that can.
        """
        groups = self.groups if self.min_group is None else max(1, min(self.groups, channels // self.min_group))
        if channels % groups:
            raise ValueError(
                f"{channels} channels cannot be split into {groups} equal groups. Allowed for {channels} "
                f"channels: groups = {divisors(channels)}"
            )
        return GroupNorm(groups, channels, self.eps)


class Layer(Norm):
    """Normalizes the channels of each place (LayerNorm).

    y = (x - mean) / sqrt(var + eps) * weight + bias, with mean and variance over the channels: Ba et al. 2016,
    "Layer Normalization", at every place of the image.
    """

    kind: Literal["layer"] = "layer"
    eps: float = Field(1e-6, gt=0)
    """Added to the variance."""

    def build(self, channels: int) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to the same shape."""
        return _OverChannels(nn.LayerNorm(channels, self.eps))


class Rms(Norm):
    """Scales the channels of each place to a root mean square of one (RMSNorm).

    y = x / sqrt(mean(x²) + eps) * weight, with the mean over the channels: Zhang & Sennrich 2019, "Root Mean Square
    Layer Normalization", at every place of the image.
    """

    kind: Literal["rms"] = "rms"
    eps: float = Field(1e-6, gt=0)
    """Added to the mean square."""

    def build(self, channels: int) -> nn.Module:
        """Return a module ``[N, channels, H, W]`` to the same shape."""
        return _OverChannels(nn.RMSNorm(channels, self.eps))


class NoNorm(Norm):
    """No normalization: the identity."""

    kind: Literal["none"] = "none"

    def build(self, channels: int) -> nn.Module:
        """Return the identity."""
        return nn.Identity()


class GroupNorm(nn.GroupNorm):
    """torch's group normalization, which can bring an embedding in and apply SiLU; on processors in one pass.

    See `diffkit.kernels`: results differ from torch's own by rounding, and ``DIFFKIT_KERNELS=plain`` turns it off.
    """

    def forward(
        self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, *, silu: bool = False
    ) -> Tensor:
        """Return act((1 + scale) norm(x) + shift).

        Args:
            x: Maps ``[N, C, H, W]``.
            scale: Of each image and channel, ``[N, C]``; nothing by default.
            shift: The same; given if and only if `scale` is.
            silu: Whether act is SiLU, not the identity.
        """
        if not normalization.applies(x, self.num_groups):
            h = _modulated(super().forward(x), scale, shift)
            return nn.functional.silu(h) if silu else h
        shape = len(x), self.num_channels
        weight = self.weight.expand(shape) if self.affine else x.new_ones(shape)
        bias = self.bias.expand(shape) if self.affine else x.new_zeros(shape)
        if scale is not None and shift is not None:
            weight, bias = weight * (1 + scale), torch.addcmul(shift, bias, 1 + scale)
        normalized: Tensor = normalization.group_norm(x, weight, bias, self.num_groups, self.eps, silu)[0]
        return normalized


def activated(
    norm: nn.Module, activation: nn.Module, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    """Return act((1 + scale) norm(x) + shift), in one go where norm and activation can be that.

    Args:
        norm: A normalization of maps.
        activation: What follows.
        x: Maps ``[N, C, H, W]``.
        scale: Of each image and channel, ``[N, C]``; nothing by default.
        shift: The same; given if and only if `scale` is.
    """
    one = isinstance(norm, GroupNorm) and isinstance(activation, nn.SiLU) and normalization.applies(x, norm.num_groups)
    if one:
        h: Tensor = norm(x, scale, shift, silu=True)
        return h
    return activation(_modulated(norm(x), scale, shift))  # type: ignore[no-any-return]


def _modulated(h: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    if scale is None or shift is None:
        return h
    return torch.addcmul(shift[:, :, None, None], h, 1 + scale[:, :, None, None])


class _OverChannels(nn.Module):
    """Applies a normalization of the last axis to the channels."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized maps, of the shape of `x`."""
        normalized: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return normalized
