"""The schedule of a closed-form alpha-bar."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from diffkit.schedules.base import BetaSchedule


class FromAlphaBar(BetaSchedule):
    """Betas for which alpha-bar follows a function of the time in [0, 1].

    ``beta_t = 1 - alpha_bar(t / T) / alpha_bar((t - 1) / T)`` for t = 1..T, none above max_beta (Nichol & Dhariwal
    2021, section 3.2). The functions, with ``alpha_bar(0) = 1``:

    - cosine: ``f(u) / f(0)``, ``f(u) = cos²((u + 0.008) / 1.008 π/2)`` (the same, eq. 17)
    - exponential: ``exp(-12 u)``, one beta for all steps
    - vp: ``exp(-0.1 u - 9.95 u²)``, the limit of DDPM's linear betas (Song et al. 2021, eq. 33)
    - sigmoid: ``(sigmoid(3 - 6 u) - sigmoid(-3)) / (sigmoid(3) - sigmoid(-3))`` (Jabri et al. 2023; Chen 2023)
    - linear: ``1 - u`` (Chen 2023, as gamma; it is `jsd`)
    """

    kind: Literal["from_alpha_bar"] = "from_alpha_bar"
    function: Literal["cosine", "exponential", "vp", "sigmoid", "linear"] = "sigmoid"
    """How alpha-bar falls."""
    max_beta: float = Field(0.999, gt=0, lt=1)
    """No beta is larger."""

    def betas(self, steps: int) -> Tensor:
        """Return the betas: float64 ``[steps]``."""
        u = torch.arange(steps + 1, dtype=torch.float64) / steps
        # a difference of logarithms doesn't cancel where alpha-bar is near 1
        return (-torch.expm1(_LOGS[self.function](u).diff())).clamp(max=self.max_beta)


def _cosine(u: Tensor) -> Tensor:
    return 2 * torch.log(torch.cos((u + 0.008) / 1.008 * math.pi / 2))


def _sigmoid(u: Tensor) -> Tensor:
    # (sigmoid(3 - 6u) - sigmoid(-3)) / (sigmoid(3) - sigmoid(-3)), as the part of the fall that is left
    return torch.log1p(-((torch.sigmoid(6 * u - 3) - _S) / (1 - 2 * _S)).clamp(max=1))


_S = 1 / (1 + math.exp(3))

_LOGS: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine": _cosine,
    "exponential": lambda u: -12 * u,
    "vp": lambda u: -0.1 * u - 9.95 * u**2,
    "sigmoid": _sigmoid,
    "linear": lambda u: torch.log1p(-u),
}
"""The log of each alpha-bar, at parts of the way from 0 to 1; what is constant falls out of the differences."""
