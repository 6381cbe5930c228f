"""The family of noise processes, and the levels that samplers walk."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from diffkit.spec import Component


@dataclass(frozen=True)
class Level:
    """A point on the way from noise to image: x = alpha x0 + sigma eps.

    Attributes:
        time: The process's time, as the network's input; NaN at the clean end, where no network is called.
        alpha: The signal level, in [0, 1].
        sigma: The noise level, >= 0.
    """

    time: float
    alpha: float
    sigma: float


CLEAN = Level(time=float("nan"), alpha=1.0, sigma=0.0)
"""The end of every way: x0 itself."""


def half_log_snr(level: Level) -> float:
    """Return lambda = log(alpha / sigma): -inf for pure noise, inf at the clean end."""
    if level.alpha == 0:
        return -math.inf
    return math.log(level.alpha) - math.log(level.sigma) if level.sigma > 0 else math.inf


class Process(Component):
    """A forward process x_t = alpha(t) x0 + sigma(t) eps, with eps ~ N(0, I).

    Everything else is derived from `alpha` and `sigma`.
    """

    family = "process"

    steps: int = Field(1000, ge=1, le=1_000_000)
    """The number T of times, counted 0..T-1 from least to most noise."""

    @abstractmethod
    def alpha(self, time: Tensor) -> Tensor:
        """Return the signal level at integer times ``[N]``: float64 ``[N]``, on the device of `time`."""

    @abstractmethod
    def sigma(self, time: Tensor) -> Tensor:
        """Return the noise level at integer times ``[N]``: float64 ``[N]``, on the device of `time`."""

    def log_snr(self, time: Tensor) -> Tensor:
        """Return log(alpha² / sigma²) at times ``[N]``: float64 ``[N]``."""
        return 2 * (torch.log(self.alpha(time)) - torch.log(self.sigma(time)))

    def add_noise(self, x0: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Draw from q(x_t | x_0), given the noise (Ho et al. 2020, eq. 4).

        Args:
            x0: Images ``[N, C, H, W]``.
            noise: Standard normal noise of the same shape.
            time: Integer times ``[N]``.

        Returns:
            x_t, of the shape and type of `x0`.
        """
        alpha, sigma = per_image(self.alpha(time), x0), per_image(self.sigma(time), x0)
        return (alpha * x0 + sigma * noise).to(x0.dtype)

    def level(self, time: int) -> Level:
        """Return the level of one time.

        Raises:
            ValueError: If the process has no such time.
        """
        if not 0 <= time < self.steps:
            raise ValueError(f"the process has the times 0 to {self.steps - 1}, not {time}")
        at = torch.tensor([time])
        return Level(float(time), self.alpha(at).item(), self.sigma(at).item())

    def nearest(self, half_log_snr: float) -> Level:
        """Return the level whose lambda = log(alpha / sigma) is nearest to a given, finite one."""
        distance = (self.log_snr(torch.arange(self.steps)) / 2 - half_log_snr).abs()
        return self.level(int(distance.argmin()))


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """Shape one value an image ``[N]`` so that it multiplies ``[N, C, H, W]``.

    The type is the images', but at least float32: half a float would round the levels.
    """
    return values.to(at_least_float32(images.dtype)).view(-1, *[1] * (images.dim() - 1))


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the type to calculate in for images of a type."""
    return torch.promote_types(dtype, torch.float32)
