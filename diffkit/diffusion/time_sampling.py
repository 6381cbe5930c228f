"""The family of time distributions that training draws from."""

from __future__ import annotations

from abc import abstractmethod

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
