"""EDM's churn: a little noise is added before a step, and removed by it."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from diffkit.diffusion.levels import Levels
from diffkit.diffusion.posterior import transition
from diffkit.diffusion.process import Level
from diffkit.diffusion.samplers.base import Noise, Sampler


class Churned(Sampler):
    """A sampler with the settings of EDM's stochastic sampler (Karras et al. 2022, algorithm 2)."""

    s_churn: float = Field(0.0, ge=0)
    """How much noise all steps together add and remove; 0 for a deterministic sampler, at most 0.41 a step counts."""
    s_tmin: float = Field(0.0, ge=0)
    """The smallest noise-to-signal ratio sigma / alpha that noise is added at."""
    s_tmax: float | None = Field(None, gt=0)
    """The largest one; no limit by default."""
    s_noise: float = Field(1.0, gt=0)
    """Factor of the added noise: slightly above 1 against images that come out too smooth."""

    def churn(self, x: Tensor, t: Level, levels: Sequence[Level], noise: Noise) -> tuple[Tensor, Level]:
        """Raise x from level t to the process's level nearest to ``(1 + gamma) s_t``, and return both.

        ``gamma = min(s_churn / N, sqrt(2) - 1)`` within the limits, else 0 (Karras et al. 2022, algorithm 2, whose t is
        the noise-to-signal ratio s = sigma / alpha). Where the process has no such level, nothing is added.
        """
        if self.s_churn == 0 or t.alpha == 0 or not self._is_within(t.sigma / t.alpha):
            return x, t
        gamma = min(self.s_churn / (len(levels) - 1), 2**0.5 - 1)
        raised = Levels.of(levels).noisier(t, 1 + gamma)
        if raised is t:
            return x, t
        alpha, variance = transition(raised, t)
        return alpha * x + self.s_noise * variance**0.5 * noise(), raised

    def _is_within(self, ratio: float) -> bool:
        return self.s_tmin <= ratio and (self.s_tmax is None or ratio <= self.s_tmax)
