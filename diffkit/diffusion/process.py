"""The family of noise processes, and the levels that samplers walk."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from diffkit.spec import Component


@contextmanager
def for_everyone() -> Iterator[None]:
    """Compute what is kept for later callers, by usual operations on usual tensors.

    Whoever asks first may be sampling in inference mode, building on the meta device, or predicting memory from tensors
    that have none.
    """
    with _disable_current_modes(), torch.inference_mode(False), torch.device("cpu"):
        yield


@dataclass(frozen=True)
class Level:
    """A point on the way from noise to image: x = alpha x0 + sigma eps.

    Attributes:
        time: The time as the network sees it; NaN at the clean end, where no network is called.
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

    Everything else is derived from `alpha` and `sigma`. Times are the process's own: the whole numbers of a
    `DiscreteProcess`, or any reals above 0 of a `ContinuousProcess`. Noise grows with them.
    """

    family = "process"

    @abstractmethod
    def alpha(self, time: Tensor) -> Tensor:
        """Return the signal level at times ``[N]``: float64 ``[N]``, on the device of `time`."""

    @abstractmethod
    def sigma(self, time: Tensor) -> Tensor:
        """Return the noise level at times ``[N]``: float64 ``[N]``, on the device of `time`."""

    @abstractmethod
    def time_of(self, log_snr: Tensor) -> Tensor:
        """Return the times at which the log of the signal-to-noise ratio is this: the inverse of `log_snr`.

        Args:
            log_snr: float64 ``[N]``.

        Returns:
            Real times, also of a discrete process: float64 ``[N]``. A discrete process's stay in its range.
        """

    @abstractmethod
    def at(self, part: Tensor) -> Tensor:
        """Return the times at parts of the way in [0, 1], from the least noise to the most.

        Equal steps of the part are what counts as equal steps of this process.

        Args:
            part: float64 ``[N]``.

        Returns:
            Times ``[N]`` to train at, in the process's own type.
        """

    @abstractmethod
    def level(self, time: float) -> Level:
        """Return the level of one time.

        Raises:
            ValueError: If the process has no such time.
        """

    @abstractmethod
    def nearest(self, half_log_snr: float) -> Level:
        """Return the level whose lambda = log(alpha / sigma) is nearest to a given, finite one."""

    def exact(self, half_log_snr: float) -> Level:
        """Return the level with exactly this lambda, also between two numbered times."""
        return self.level(self.time_of(torch.tensor([2 * half_log_snr], dtype=torch.float64)).item())

    @property
    def no_signal_setting(self) -> str | None:
        """The setting by which the noisiest time has no signal at all, as `key = value`; None if it has some."""
        return None

    @property
    def assumed_std(self) -> float | None:
        """The standard deviation of the images that the process reckons with, if it does."""
        return None

    def network_time(self, time: Tensor) -> Tensor:
        """Return what the network sees of times ``[N]``: the times themselves, unless a kind says otherwise."""
        return time

    def input_scale(self, alpha: Tensor, sigma: Tensor) -> Tensor | None:
        """Return what x is multiplied by before the network sees it, at levels ``[N]``; None for 1."""
        return None

    def log_snr(self, time: Tensor) -> Tensor:
        """Return log(alpha² / sigma²) at times ``[N]``: float64 ``[N]``; -inf where there is no signal."""
        return 2 * (torch.log(self.alpha(time)) - torch.log(self.sigma(time)))

    def add_noise(self, x0: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Draw from q(x_t | x_0), given the noise (Ho et al. 2020, eq. 4).

        Args:
            x0: Images ``[N, C, H, W]``.
            noise: Standard normal noise of the same shape.
            time: Times ``[N]``.

        Returns:
            x_t, of the shape and type of `x0`.
        """
        alpha, sigma = per_image(self.alpha(time), x0), per_image(self.sigma(time), x0)
        return (alpha * x0 + sigma * noise).to(x0.dtype)

    def _level(self, time: Tensor) -> Level:
        return Level(float(self.network_time(time).item()), self.alpha(time).item(), self.sigma(time).item())


class DiscreteProcess(Process):
    """What processes with numbered times share. Their `alpha` and `sigma` take real times too, between the numbers."""

    steps: int = Field(1000, ge=1, le=1_000_000)
    """The number T of times, counted 0..T-1 from least to most noise."""

    def at(self, part: Tensor) -> Tensor:
        """Return ``floor(T part)``, T - 1 at the end: int64 ``[N]``."""
        return (part * self.steps).long().clamp(max=self.steps - 1)

    def level(self, time: float) -> Level:
        """Return the level of one time, a whole number or one between two.

        Raises:
            ValueError: If the process has no such time.
        """
        if not 0 <= time <= self.steps - 1:
            raise ValueError(f"the process has the times 0 to {self.steps - 1}, not {time}")
        whole = float(time).is_integer()
        return self._level(torch.tensor([int(time)]) if whole else torch.tensor([time], dtype=torch.float64))

    def nearest(self, half_log_snr: float) -> Level:
        """Return the level of a whole time whose lambda is nearest to a given, finite one."""
        distance = (self.log_snr(torch.arange(self.steps)) / 2 - half_log_snr).abs()
        return self.level(int(distance.argmin()))


class ContinuousProcess(Process):
    """What processes of real times share. The clean end is at time 0, or far below."""

    @property
    @abstractmethod
    def last(self) -> float:
        """The largest time there is; infinite if there is none."""

    @property
    def least_part(self) -> float:
        """The part of the way, in [0, 1), at which samplers that choose their last level stop."""
        return 0.0

    def level(self, time: float) -> Level:
        """Return the level of one time.

        Raises:
            ValueError: If the process has no such time.
        """
        if not 0 < time <= self.last or time == float("inf"):
            upto = "" if self.last == float("inf") else f" and up to {self.last:g}"
            raise ValueError(f"the process has the times above 0{upto}, not {time:g}")
        return self._level(torch.tensor([time], dtype=torch.float64))

    def nearest(self, half_log_snr: float) -> Level:
        """Return the level with exactly this lambda."""
        return self._level(self.time_of(torch.tensor([2 * half_log_snr], dtype=torch.float64)))


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """Shape one value an image ``[N]`` so that it multiplies ``[N, C, H, W]``.

    The type is the images', but at least float32: half a float would round the levels.
    """
    return values.to(at_least_float32(images.dtype)).view(-1, *[1] * (images.dim() - 1))


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the type to calculate in for images of a type."""
    return torch.promote_types(dtype, torch.float32)
