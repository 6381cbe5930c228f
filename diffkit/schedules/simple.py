"""Schedules with no curve to choose."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from diffkit.schedules.base import BetaSchedule


class Constant(BetaSchedule):
    """The same beta at every step ("const" in the code of Ho et al. 2020)."""

    kind: Literal["constant"] = "constant"
    value: float = Field(0.02, gt=0, lt=1)
    """The beta of all steps."""

    def betas(self, steps: int) -> Tensor:
        """Return the betas: float64 ``[steps]``."""
        return torch.full((steps,), self.value, dtype=torch.float64)


class Jsd(BetaSchedule):
    """Betas that take the same part of the signal's variance at every step.

    ``beta_t = 1 / (T - t + 1)`` for t = 1..T, so that alpha-bar falls linearly (Sohl-Dickstein et al. 2015,
    section 2.4.1). The last beta would be 1 and leave no signal at all: it is capped.
    """

    kind: Literal["jsd"] = "jsd"
    max_beta: float = Field(0.999, gt=0, lt=1)
    """No beta is larger."""

    def betas(self, steps: int) -> Tensor:
        """Return the betas: float64 ``[steps]``."""
        return (1 / torch.arange(steps, 0, -1, dtype=torch.float64)).clamp(max=self.max_beta)
