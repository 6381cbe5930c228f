"""Spacings by the ratio of noise to signal, and the one that is written out."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from diffkit.diffusion.process import ContinuousProcess, DiscreteProcess, Level, Process
from diffkit.diffusion.spacing import Spacing, distinct, part_times
from diffkit.spec import Many


class NoiseSpacing(Spacing):
    """What spacings share that choose the ratio of noise to signal, ``r = sigma / alpha``, between the process's ends.

    They mean the same on every process. A discrete process visits the nearest times, none of them twice.
    """

    @abstractmethod
    def log_ratios(self, high: float, low: float, u: Tensor) -> Tensor:
        """Return the logs of the ratios to visit: float64 ``[n]``, from `high` to `low`.

        Args:
            high: The log of the process's largest ratio.
            low: The log of the smallest one.
            u: Evenly from 0 to 1: float64 ``[n]``, n >= 2.
        """

    def refuses(self, process: Process, count: int) -> str | None:
        """Return that the ratio has no end, if it has none."""
        if process.no_signal_setting:
            return (
                f"process.{process.no_signal_setting} leaves no signal at the noisiest time, so the ratio of noise to "
                f"signal that '{self.kind_name()}' spaces is infinite there: use 'trailing' or 'linspace'"
            )
        return super().refuses(process, count)

    def visited(self, process: Process, count: int) -> Sequence[float]:
        """Return the times, falling."""
        least = process.least_part if isinstance(process, ContinuousProcess) else 0.0
        first, last = part_times(process, [1.0, least])
        if count == 1:
            return [first]
        high, low = (-process.log_snr(torch.tensor([first, last], dtype=torch.float64)) / 2).tolist()
        ratios = self.log_ratios(high, low, torch.linspace(0, 1, count, dtype=torch.float64))
        between: list[float] = process.time_of(-2 * ratios)[1:-1].tolist()
        times = [first, *between, last]  # the ends are the process's own, to the bit
        return distinct(times, process.steps) if isinstance(process, DiscreteProcess) else times


class Karras(NoiseSpacing):
    """Most steps where there is little noise.

    ``r_i = (r_max^(1/rho) + i / (n - 1) (r_min^(1/rho) - r_max^(1/rho)))^rho`` for i = 0..n-1 (Karras et al. 2022,
    eq. 5).
    """

    kind: Literal["karras"] = "karras"
    rho: float = Field(7.0, gt=0, le=100)
    """The larger, the more steps are near the image: 1 is even in r, 3 nearly evens out the steps' errors."""

    def log_ratios(self, high: float, low: float, u: Tensor) -> Tensor:
        """Return the logs of the ratios."""
        start, end = math.exp(high / self.rho), math.exp(low / self.rho)
        return self.rho * torch.log(start + u * (end - start))


class Exponential(NoiseSpacing):
    """Each step takes the same factor off the ratio of noise to signal, or with `rho` a changing one.

    ``ln r_i = ln r_min + (1 - i / (n - 1))^rho (ln r_max - ln r_min)`` for i = 0..n-1 (the code of Karras et al. 2022
    calls rho = 1 the spacing of "VE"; the others are known as polyexponential).
    """

    kind: Literal["exponential"] = "exponential"
    rho: float = Field(1.0, gt=0, le=100)
    """Above 1 more steps are near the image, below 1 near the noise."""

    def log_ratios(self, high: float, low: float, u: Tensor) -> Tensor:
        """Return the logs of the ratios."""
        return low + (1 - u) ** self.rho * (high - low)


class LogSnr(NoiseSpacing):
    """Equal steps of the log of the signal-to-noise ratio.

    ``lambda_i = lambda_T + i / (n - 1) (lambda_0 - lambda_T)`` with ``lambda = ln(alpha / sigma)`` (Lu et al. 2022,
    "DPM-Solver"). It is `exponential` with rho = 1.
    """

    kind: Literal["log_snr"] = "log_snr"

    def log_ratios(self, high: float, low: float, u: Tensor) -> Tensor:
        """Return the logs of the ratios."""
        return high + u * (low - high)


class TimeList(Spacing):
    """Exactly the times that are written out."""

    kind: Literal["list"] = "list"
    times: Many[float] = Field(min_length=1)
    """The times of the process, strictly falling: 0 to T - 1 for `ddpm`, where fractions are between two times; sigma
    for `edm`; 0 to 1 for `flow`. As many as the sampler takes steps."""
    shown: Many[float] | None = None
    """The times that the network is shown at these, where they are others, such as rounded ones; as many."""

    @classmethod
    def example_settings(cls) -> dict[str, list[float]]:
        """Return one time that every process has."""
        return {"times": [1.0]}

    @model_validator(mode="after")
    def _falls(self) -> Self:
        for before, after in pairwise(self.times):
            if before <= after:
                raise ValueError(f"times must fall strictly, but {after:g} follows {before:g}")
        if self.shown is not None and len(self.shown) != len(self.times):
            raise ValueError(f"shown has {len(self.shown)} times, but there are {len(self.times)} times to show")
        return self

    def refuses(self, process: Process, count: int) -> str | None:
        """Return that there is another number of times, or one that the process has not."""
        try:
            for time in (*self.times, *(self.shown or ())):
                process.level(time)
        except ValueError as error:
            return str(error)
        if count != len(self.times):
            return f"the spacing 'list' has {len(self.times)} times, so steps must be {len(self.times)}"
        return super().refuses(process, count)

    def visited(self, process: Process, count: int) -> Sequence[float]:
        """Return the times."""
        return self.times

    def at(self, process: Process, times: Sequence[float]) -> list[Level]:
        """Return the levels, as the network is shown them."""
        shown = [process.level(time).time for time in self.shown or times]
        return [replace(level, time=time) for level, time in zip(super().at(process, times), shown, strict=True)]
