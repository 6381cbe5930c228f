"""Schedules whose betas rise from one given value to another."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from diffkit.schedules.base import BetaSchedule


class Ramp(BetaSchedule):
    """What the rising schedules share: the first and the last beta."""

    start: float = Field(1e-4, gt=0, lt=1)
    """The first beta."""
    end: float = Field(0.02, gt=0, lt=1)
    """The last beta, at least `start`."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.start > self.end:
            raise ValueError(f"start = {self.start:g} must not be larger than end = {self.end:g}")
        return self


class Linear(Ramp):
    """Betas that rise linearly.

    ``beta_t = start + (end - start) t / (T - 1)`` for t = 0..T-1 (Ho et al. 2020, section 4). The defaults are
    the paper's for T = 1000.
    """

    kind: Literal["linear"] = "linear"
    scale_to_steps: bool = False
    """Multiply all betas by 1000 / T, so that a process of any length adds as much noise as one of 1000 steps
    (Nichol & Dhariwal 2021, in their code)."""

    def betas(self, steps: int) -> Tensor:
        """Return the betas: float64 ``[steps]``.

        Raises:
            ValueError: If `scale_to_steps` makes a beta reach 1.
        """
        factor = 1000 / steps if self.scale_to_steps else 1.0
        if factor * self.end >= 1:
            raise ValueError(
                f"scale_to_steps multiplies the betas by 1000 / {steps}, so the last one becomes "
                f"{factor * self.end:g}; it must stay below 1: use more steps or a smaller end"
            )
        return factor * torch.linspace(self.start, self.end, steps, dtype=torch.float64)


class Quadratic(Ramp):
    """Betas whose square roots rise linearly.

    ``sqrt(beta_t) = sqrt(start) + (sqrt(end) - sqrt(start)) t / (T - 1)``; "quad" in the code of Ho et al. 2020.
    """

    kind: Literal["quadratic"] = "quadratic"

    def betas(self, steps: int) -> Tensor:
        """Return the betas: float64 ``[steps]``."""
        return _square_of_linear(self.start, self.end, steps)


class ScaledLinear(Ramp):
    """The same curve as `quadratic`, with the end points of latent diffusion.

    ``sqrt(beta_t) = sqrt(start) + (sqrt(end) - sqrt(start)) t / (T - 1)`` (Rombach et al. 2022, in their code).
    """

    kind: Literal["scaled_linear"] = "scaled_linear"
    start: float = Field(0.00085, gt=0, lt=1)
    """The first beta."""
    end: float = Field(0.012, gt=0, lt=1)
    """The last beta, at least `start`."""

    def betas(self, steps: int) -> Tensor:
        """Return the betas: float64 ``[steps]``."""
        return _square_of_linear(self.start, self.end, steps)


class Sigmoid(Ramp):
    """Betas that rise along a sigmoid.

    ``beta_t = start + (end - start) sigmoid(u_t)`` with u from -width to width (Xu et al. 2022, GeoDiff, in
    their code).
    """

    kind: Literal["sigmoid"] = "sigmoid"
    width: float = Field(6.0, gt=0)
    """How far into its flat ends the sigmoid reaches."""

    def betas(self, steps: int) -> Tensor:
        """Return the betas: float64 ``[steps]``."""
        u = torch.linspace(-self.width, self.width, steps, dtype=torch.float64)
        return self.start + (self.end - self.start) * torch.sigmoid(u)


class Warmup(Ramp):
    """Betas that rise linearly over a first part of the steps and stay.

    ``beta_t`` rises from start to end over the first ``fraction * T`` steps; "warmup10" and "warmup50" in the
    code of Ho et al. 2020 are the fractions 0.1 and 0.5.
    """

    kind: Literal["warmup"] = "warmup"
    fraction: float = Field(0.1, gt=0, le=1)
    """The part of the steps over which the betas rise."""

    def betas(self, steps: int) -> Tensor:
        """Return the betas: float64 ``[steps]``."""
        rising = round(steps * self.fraction)
        betas = torch.full((steps,), self.end, dtype=torch.float64)
        betas[:rising] = torch.linspace(self.start, self.end, rising, dtype=torch.float64)
        return betas


def _square_of_linear(start: float, end: float, steps: int) -> Tensor:
    return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
