"""The family of time distributions that training draws from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

from diffkit.diffusion.process import DiscreteProcess, Process
from diffkit.spec import Component

History: TypeAlias = Mapping[str, Tensor]
"""What a run remembers of the times drawn so far: tensors by name, which every checkpoint holds."""


class TimeSampling(Component):
    """Which times a training step draws.

    A kind that learns from the losses of the times drawn so far keeps them in a history, which belongs to the run: the
    kind makes an empty one, reads it in `draw` and `loss_weight`, and writes to it in `remember`.
    """

    family = "time_sampling"

    @abstractmethod
    def draw(self, count: int, process: Process, generator: torch.Generator, history: History | None = None) -> Tensor:
        """Return times ``[count]`` of the process, on the device of the generator.

        They are int64 in 0..T-1 for a discrete process, and float64 above 0 for a continuous one.

        Args:
            count: Number of times.
            process: The process.
            generator: The source of randomness.
            history: The run's history; None before the first step.
        """

    def empty_history(self, process: Process, device: torch.device | str) -> dict[str, Tensor]:
        """Return the history of a run that has not begun, on a device. Its tensors keep their shapes."""
        return {}

    def loss_weight(self, time: Tensor, process: Process, history: History) -> Tensor | None:
        """Return what the losses at times ``[N]`` are multiplied by: ``[N]``; None for 1.

        Args:
            time: Times that `draw` drew from the same history.
            process: The process.
            history: The run's history.
        """
        return None

    def remember(self, history: History, time: Tensor, loss: Tensor) -> None:
        """Write what a step found to the history, in place and without waiting for the device.

        Args:
            history: The run's history.
            time: The times of the step ``[N]``.
            loss: The loss of each image ``[N]``, without `loss_weight`.
        """
        return

    def refuses(self, process: Process) -> str | None:
        """Return why this cannot be used with a process, and what to do, or None if it can."""
        return None


class UniformTimes(TimeSampling):
    """Every time with the same chance, each image by itself (Ho et al. 2020, algorithm 1).

    For a continuous process every part of the way has the same chance: of the time for `flow`, of log sigma for
    `edm`.
    """

    kind: Literal["uniform"] = "uniform"

    def draw(self, count: int, process: Process, generator: torch.Generator, history: History | None = None) -> Tensor:
        """Return times ``[count]``."""
        device = generator.device
        if isinstance(process, DiscreteProcess):
            return torch.randint(process.steps, (count,), generator=generator, device=device)
        # rand can be 0 but not 1; the noisy end is the one where sampling starts
        return process.at(1 - torch.rand(count, generator=generator, device=device, dtype=torch.float64))


class StratifiedTimes(TimeSampling):
    """Every time with the same chance, and the times of one batch spread evenly.

    ``u_i = (u + i / N) mod 1`` with one uniform u for the batch, and the time at the part u_i of the way, which is
    ``floor(T u_i)`` for a discrete process: less variance in the loss of a batch (Kingma et al. 2021, appendix I.1).
    """

    kind: Literal["stratified"] = "stratified"

    def draw(self, count: int, process: Process, generator: torch.Generator, history: History | None = None) -> Tensor:
        """Return times ``[count]``."""
        device = generator.device
        start = torch.rand((), generator=generator, device=device, dtype=torch.float64)
        return process.at((start + torch.arange(count, device=device, dtype=torch.float64) / count) % 1)


class LogitNormalTimes(TimeSampling):
    """Mostly times in the middle of the way.

    The part of the way is ``sigmoid(mean + std z)`` with z ~ N(0, 1) (Esser et al. 2024, eq. 19).
    """

    kind: Literal["logit_normal"] = "logit_normal"
    mean: float = Field(0.0, ge=-20, le=20)
    """Above 0 towards the noise, below 0 towards the image."""
    std: float = Field(1.0, gt=0, le=10)
    """How widely the times are spread."""

    def draw(self, count: int, process: Process, generator: torch.Generator, history: History | None = None) -> Tensor:
        """Return times ``[count]``."""
        return process.at(torch.sigmoid(_normal(self.mean, self.std, count, generator)))


class LogNormalTimes(TimeSampling):
    """Mostly times at which the ratio of noise to signal is near a given one.

    ``ln(sigma / alpha) ~ N(mean, std²)`` (Karras et al. 2022, table 1). A discrete process takes the nearest time.
    """

    kind: Literal["lognormal"] = "lognormal"
    mean: float = Field(-1.2, ge=-20, le=20)
    """The mean of the log of the ratio: the paper's P_mean."""
    std: float = Field(1.2, gt=0, le=10)
    """The standard deviation of the log of the ratio: the paper's P_std."""

    def draw(self, count: int, process: Process, generator: torch.Generator, history: History | None = None) -> Tensor:
        """Return times ``[count]``."""
        time = process.time_of(-2 * _normal(self.mean, self.std, count, generator))
        return time.round().long() if isinstance(process, DiscreteProcess) else time


def _normal(mean: float, std: float, count: int, generator: torch.Generator) -> Tensor:
    return mean + std * torch.randn(count, generator=generator, device=generator.device, dtype=torch.float64)
