"""The family of variances of the reverse step."""

from __future__ import annotations

from abc import abstractmethod

from diffkit.diffusion.process import Level
from diffkit.spec import Component


class Variance(Component):
    """The variance of the ancestral step p(x_s | x_t) from level t to the less noisy level s."""

    family = "variance"

    @abstractmethod
    def of(self, t: Level, s: Level) -> float:
        """Return the variance of the step. It is 0 where s is the clean end for `fixed_small` only."""
