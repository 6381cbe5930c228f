"""The family of beta schedules."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from diffkit.spec import Component


class BetaSchedule(Component):
    """How much noise each step of a discrete diffusion process adds.

    ``beta_t`` is the variance of q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I)
    (Ho et al. 2020, eq. 2).
    """

    family = "beta_schedule"

    @abstractmethod
    def betas(self, steps: int) -> Tensor:
        """Return the betas of a process of `steps` steps: float64 ``[steps]``, each in (0, 1).

        Raises:
            ValueError: If the settings give no valid betas for so many steps.
        """
