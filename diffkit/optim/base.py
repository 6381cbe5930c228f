"""The families of optimizers, learning-rate schedules and weight averages."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable

import torch
from pydantic import Field
from torch import nn

from diffkit.spec import Component

SAMPLED = "ema"
"""The name of the average that is sampled from."""


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
    """Exponential moving averages of the weights, kept in float32: one, or several at once.

    A kind of one average only says its decay. One of several names them in `averages`.
    """

    family = "ema"

    @abstractmethod
    def decay_at(self, step: int) -> float:
        """Return the decay d of the update ``average = d average + (1 - d) weights`` after optimizer step
        `step`, counted from 1, for the average that is sampled from. A decay of 0 makes it equal to the weights.
        """

    def averages(self) -> dict[str, Callable[[int], float]]:
        """Return the decay of each average that is kept, as a function of the step, by the average's name.

        The first is called `SAMPLED`, and is what is sampled from unless one asks for another. Names are those of
        files, without their ending.
        """
        return {SAMPLED: self.decay_at}

    def power_functions(self) -> dict[str, float]:
        """Return the lengths of those averages, by name, in which weights count by a power function of their step.

        Of snapshots of these, an average of another length can be made afterwards: see `diffkit.optim.profiles`, which
        says what a length is.
        """
        return {}

    def keeps_snapshot(self, step: int, total: int) -> bool:
        """Return whether a snapshot of all averages is kept after step `step` of `total`, counted from 1."""
        return False
