"""The family of variances of the reverse step."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

from diffkit.diffusion.posterior import posterior, transition
from diffkit.diffusion.process import Level
from diffkit.spec import Component


class Variance(Component):
    """The variance of the ancestral step p(x_s | x_t) from level t to the less noisy level s."""

    family = "variance"

    @abstractmethod
    def of(self, t: Level, s: Level) -> float:
        """Return the variance of the step.

        It need not be 0 where s is the clean end: samplers add no noise there in any case.
        """


class FixedSmall(Variance):
    """The variance of the true step if the data were a single image: the smallest sensible one.

    ``sigma_ts² = variance_ts sigma_s² / sigma_t²``, the posterior's variance (Ho et al. 2020, eq. 7 and section
    3.2), with variance_ts the effective beta between the two levels.
    """

    kind: Literal["fixed_small"] = "fixed_small"

    def of(self, t: Level, s: Level) -> float:
        """Return the variance of q(x_s | x_t, x_0)."""
        return posterior(t, s).variance


class FixedLarge(Variance):
    """The variance of the true step if the data were standard normal: the largest sensible one.

    ``sigma_ts² = variance_ts`` (Ho et al. 2020, section 3.2), the effective beta between the two levels:
    ``beta_t`` for neighbouring ones, ``1 - alpha_bar_t / alpha_bar_s`` for any two.
    """

    kind: Literal["fixed_large"] = "fixed_large"

    def of(self, t: Level, s: Level) -> float:
        """Return the variance of q(x_t | x_s)."""
        return transition(t, s).variance
