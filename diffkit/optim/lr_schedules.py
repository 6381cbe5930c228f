"""Learning-rate schedules: a factor for each step."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from diffkit.optim.base import LrSchedule


class Constant(LrSchedule):
    """The same learning rate all along."""

    kind: Literal["constant"] = "constant"

    def factor(self, step: int, total: int) -> float:
        """Return 1."""
        return 1.0


class Warmup(LrSchedule):
    """A linear rise, then constant: ``min(1, (step + 1) / steps)`` (Ho et al. 2020, in their code)."""

    kind: Literal["warmup"] = "warmup"
    steps: int = Field(5_000, ge=1)
    """Number of steps of the rise."""

    def factor(self, step: int, total: int) -> float:
        """Return the factor, in (0, 1]."""
        return rise(step, self.steps)


class Cosine(LrSchedule):
    """A linear rise, then half a cosine down to a floor after the last step.

    ``floor + (1 - floor) (1 + cos(π u)) / 2``, where u goes from 0 after the rise to 1 at the end (Loshchilov &
    Hutter 2017, eq. 5, without restarts).
    """

    kind: Literal["cosine"] = "cosine"
    warmup: int = Field(0, ge=0)
    """Number of steps of the rise."""
    floor: float = Field(0.0, ge=0, le=1)
    """The factor at the end."""

    def factor(self, step: int, total: int) -> float:
        """Return the factor, in [0, 1]."""
        if step < self.warmup:
            return rise(step, self.warmup)
        u = part_between(step, self.warmup, total)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * u)) / 2


class Linear(LrSchedule):
    """A linear rise, constant for a while, then a linear fall to a floor after the last step.

    ``1 - (1 - floor) u``, where u goes from 0 where the fall starts to 1 at the end.
    """

    kind: Literal["linear"] = "linear"
    warmup: int = Field(0, ge=0)
    """Number of steps of the rise."""
    decay_start: float = Field(0.0, ge=0, le=1)
    """Part of the run after which the fall starts, but not before the end of the rise."""
    floor: float = Field(0.0, ge=0, le=1)
    """The factor at the end."""

    def factor(self, step: int, total: int) -> float:
        """Return the factor, in [0, 1]."""
        if step < self.warmup:
            return rise(step, self.warmup)
        u = part_between(step, max(self.warmup, self.decay_start * total), total)
        return 1 - (1 - self.floor) * u


class InverseSqrt(LrSchedule):
    """A linear rise, then a fall like one over the root of the steps.

    ``min((step + 1) / warmup, 1, sqrt(decay / (step + 1)))``: Vaswani et al. 2017, eq. 3, scaled to a peak of 1, where
    the two are equal; Karras et al. 2024 (EDM2), eq. 67, where the fall begins later. It does not depend on the length
    of the run.
    """

    kind: Literal["inverse_sqrt"] = "inverse_sqrt"
    warmup: int = Field(10_000, ge=1)
    """Number of steps of the rise."""
    decay: int | None = Field(None, ge=1)
    """Step at which the fall begins: that of the end of the rise by default."""

    def factor(self, step: int, total: int) -> float:
        """Return the factor, in (0, 1]."""
        return min(rise(step, self.warmup), math.sqrt((self.decay or self.warmup) / (step + 1)))


def rise(step: int, steps: int) -> float:
    """Return the factor of a linear rise that reaches 1 at its last step."""
    return min(1.0, (step + 1) / steps)


def part_between(step: int, start: float, end: int) -> float:
    """Return how far a step is between two others, from 0 to 1."""
    return min(1.0, max(0.0, step - start) / max(1.0, end - start))
