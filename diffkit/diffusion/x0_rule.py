"""The family of rules for an estimated x0 that leaves the range of images."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from diffkit.spec import Component


class X0Rule(Component):
    """What happens to an estimate of x0 before the sampler sees it.

    Where x0 was changed, eps is derived anew from x and the changed x0, so that x = alpha x0 + sigma eps still holds,
    unless a kind is told otherwise.
    """

    family = "x0_rule"

    @abstractmethod
    def apply(self, x0: Tensor) -> Tensor:
        """Return the images ``[N, C, H, W]`` to go on with, where the range of images is [-1, 1]."""

    def noise(self, eps: Tensor, change: Tensor) -> Tensor:
        """Return the noise to go on with.

        Args:
            eps: The noise as the network says it.
            change: What must be added to it so that x = alpha x0 + sigma eps holds for the changed x0 too.
        """
        return eps + change


class BoundedX0(X0Rule):
    """A rule that takes x0 back into a range."""

    keeps_noise: bool = False
    """Leave the noise as the network says it where x0 is changed, so that both together are no longer x (diffusers'
    DDIM, unless it is told to use the clipped output)."""

    def noise(self, eps: Tensor, change: Tensor) -> Tensor:
        """Return the noise to go on with."""
        return eps if self.keeps_noise else eps + change


class Clip(BoundedX0):
    """Clips every element to the range of images (Ho et al. 2020, in their code)."""

    kind: Literal["clip"] = "clip"
    low: float = -1.0
    """The smallest value."""
    high: float = 1.0
    """The largest value, above `low`."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g} must be smaller than high = {self.high:g}")
        return self

    def apply(self, x0: Tensor) -> Tensor:
        """Return x0 clipped to [low, high]."""
        return x0.clamp(self.low, self.high)


class NoRule(X0Rule):
    """Leaves x0 as it is."""

    kind: Literal["none"] = "none"

    def apply(self, x0: Tensor) -> Tensor:
        """Return x0."""
        return x0


class DynamicThreshold(BoundedX0):
    """Clips each image to a range of its own and scales that to [-1, 1].

    ``s`` is the given quantile of ``|x0|`` in one image, at least 1; ``x0 = clip(x0, -s, s) / s`` (Saharia et al.
    2022, section 2.3). Keeps strong guidance from saturating the pixels.
    """

    kind: Literal["dynamic_threshold"] = "dynamic_threshold"
    quantile: float = Field(0.995, gt=0, le=1)
    """The part of an image's values that are inside of the range."""
    largest: float | None = Field(None, ge=1)
    """The largest range there is; no limit by default."""

    def apply(self, x0: Tensor) -> Tensor:
        """Return the clipped and scaled images."""
        ordered = x0.abs().flatten(1).sort(dim=1).values  # torch.quantile refuses large batches
        place = self.quantile * (ordered.shape[1] - 1)
        below, above = ordered[:, int(place)], ordered[:, -int(-place // 1)]
        s = torch.lerp(below, above, place % 1).clamp(min=1, max=self.largest).view(-1, *[1] * (x0.dim() - 1))
        return x0.clamp(-s, s) / s
