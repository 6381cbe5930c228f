"""Kinds of normalization."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

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
        return nn.GroupNorm(groups, channels, self.eps)


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


class _OverChannels(nn.Module):
    """Applies a normalization of the last axis to the channels."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized maps, of the shape of `x`."""
        normalized: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return normalized
