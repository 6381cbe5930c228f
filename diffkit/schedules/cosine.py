"""The cosine schedule."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from diffkit.schedules.base import BetaSchedule


class Cosine(BetaSchedule):
    """Betas for which alpha-bar falls like a squared cosine.

    ``alpha_bar(t) = f(t) / f(0)``, ``f(t) = cos²((t/T + s) / (1 + s) π/2)``, ``beta_t = 1 - alpha_bar(t) /
    alpha_bar(t - 1)`` for t = 1..T, and no beta above 0.999 (Nichol & Dhariwal 2021, eq. 17).
    """

    kind: Literal["cosine"] = "cosine"
    offset: float = Field(0.008, ge=0)
    """The paper's s, which keeps the first betas from being too small."""
    max_beta: float = Field(0.999, gt=0, lt=1)
    """No beta is larger."""

    def betas(self, steps: int) -> Tensor:
        """Return the betas: float64 ``[steps]``."""
        grid = torch.arange(steps + 1, dtype=torch.float64) / steps
        angle = (grid + self.offset) / (1 + self.offset) * math.pi / 2
        before, after = angle[:-1], angle[1:]
        # 1 - cos²b / cos²a, in a form that doesn't cancel where the two are near each other
        betas = torch.sin(after - before) * torch.sin(after + before) / torch.cos(before) ** 2
        return betas.clamp(max=self.max_beta)
