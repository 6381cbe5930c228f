"""The families of optimizers, learning-rate schedules and weight averages."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import torch
from pydantic import Field
from torch import nn

from diffkit.spec import Component


class Optimizer(Component):
    """One of torch's optimizers, with its settings."""

    family = "optimizer"

    lr: float = Field(2e-4, gt=0)
    """Learning rate, before the schedule's factor."""

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimizer, in its fastest exact form for the parameters' device."""


class LrSchedule(Component):
    """The learning rate over a run, as a factor of the optimizer's."""

    family = "lr_schedule"

    @abstractmethod
    def factor(self, step: int, total: int) -> float:
        """Return the factor for one step.

        Args:
            step: The number of optimizer steps taken before this one, from 0.
            total: The number of steps of the whole run.
        """


class Ema(Component):
    """An exponential moving average of the weights, kept in float32."""

    family = "ema"

    @abstractmethod
    def decay_at(self, step: int) -> float:
        """Return the decay d of the update ``average = d average + (1 - d) weights`` after optimizer step
        `step`, counted from 1. A decay of 0 makes the average equal to the weights.
        """
