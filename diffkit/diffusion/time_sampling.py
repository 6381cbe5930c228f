"""The family of time distributions that training draws from."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from diffkit.diffusion.process import Process
from diffkit.spec import Component


class TimeSampling(Component):
    """Which times a training step draws."""

    family = "time_sampling"

    @abstractmethod
    def draw(self, count: int, process: Process, generator: torch.Generator) -> Tensor:
        """Return integer times ``[count]`` in 0..T-1, on the device of the generator."""


class UniformTimes(TimeSampling):
    """Every time with the same chance, each image by itself (Ho et al. 2020, algorithm 1)."""

    kind: Literal["uniform"] = "uniform"

    def draw(self, count: int, process: Process, generator: torch.Generator) -> Tensor:
        """Return int64 times ``[count]``."""
        return torch.randint(process.steps, (count,), generator=generator, device=generator.device)


class StratifiedTimes(TimeSampling):
    """Every time with the same chance, and the times of one batch spread evenly.

    ``u_i = (u + i / N) mod 1`` with one uniform u for the batch, ``t_i = floor(T u_i)``: less variance in the loss
    of a batch (Kingma et al. 2021, section I.1).
    """

    kind: Literal["stratified"] = "stratified"

    def draw(self, count: int, process: Process, generator: torch.Generator) -> Tensor:
        """Return int64 times ``[count]``."""
        device = generator.device
        start = torch.rand((), generator=generator, device=device, dtype=torch.float64)
        u = (start + torch.arange(count, device=device, dtype=torch.float64) / count) % 1
        return (u * process.steps).long().clamp(max=process.steps - 1)
