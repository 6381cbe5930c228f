"""Restart sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.levels import Levels
from diffkit.diffusion.posterior import transition
from diffkit.diffusion.process import Level, half_log_snr
from diffkit.diffusion.samplers.base import Noise, Sampler
from diffkit.diffusion.samplers.heun import heun_step


class Restart(Sampler):
    """Restart: Heun's method, and on the way some noise is added and removed again, several times. Stochastic.

    Arrived at the level of `low`, ``x / alpha`` gets noise of variance ``s_max² - s_min²``, and the ODE is followed
    back, K times (Xu et al. 2023, "Restart sampling", with EDM's Heun steps). Large noise, once, forgets
    more of the errors so far than a little in each step.

    s_min is the visited noise-to-signal ratio sigma / alpha nearest to `low`, s_max the process's nearest to
    ``s_min high / low``. n steps are 2n - 1 network calls, and 2 `restarts` `inner_steps` more.
    """

    kind: Literal["restart"] = "restart"
    low: float = Field(0.06, gt=0)
    """Where to restart from: a noise-to-signal ratio sigma / alpha."""
    high: float = Field(0.3, gt=0)
    """Where to restart to; above `low`."""
    restarts: int = Field(2, ge=1, le=1000)
    """How often."""
    inner_steps: int = Field(2, ge=1, le=1000)
    """Steps back in each restart, of equal size in log-SNR as far as the process has such levels."""
    s_noise: float = Field(1.0, gt=0)
    """Factor of the added noise: slightly above 1 against images that come out too smooth."""

    @model_validator(mode="after")
    def _is_an_interval(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g} must be smaller than high = {self.high:g}")
        return self

    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images ``[N, C, H, W]`` at the clean end."""
        again = self._levels(Levels.of(levels))
        for t, s in pairwise(levels):
            if t == again[-1] and len(again) > 1:
                for _ in range(self.restarts):
                    alpha, variance = transition(again[0], t)
                    x = alpha * x + self.s_noise * variance**0.5 * noise()
                    for upper, lower in pairwise(again):
                        x = heun_step(denoise, x, upper, lower)
            x = heun_step(denoise, x, t, s)
        return x

    def _levels(self, levels: Levels) -> list[Level]:
        """Return the levels of a restart, falling; a single one if the process has none that is noisier."""
        visited = [level for level in levels if level.alpha > 0 and level.sigma > 0]
        if not visited:
            return [levels[0]]
        end = min(visited, key=lambda level: abs(half_log_snr(level) + math.log(self.low)))
        start = levels.noisier(end, self.high / self.low)
        if start is end:
            return [end]
        first, last = half_log_snr(start), half_log_snr(end)
        between = [levels.nearest(first + (last - first) * i / self.inner_steps) for i in range(1, self.inner_steps)]
        falling = [start]
        for level in between:
            if half_log_snr(falling[-1]) < half_log_snr(level) < last:
                falling.append(level)
        return [*falling, end]
