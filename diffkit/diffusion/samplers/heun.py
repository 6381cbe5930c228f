"""Heun's method, EDM's sampler."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor

from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.process import Level
from diffkit.diffusion.samplers.base import Noise
from diffkit.diffusion.samplers.churn import Churned
from diffkit.diffusion.samplers.steps import along_noise, is_first_order, straight


class Heun(Churned):
    """Heun's method on the probability-flow ODE: second order, two network calls a step.

    ``x' = x_t + (s_s - s_t) eps_t``, ``x_s = x_t + (s_s - s_t) (eps_t + eps'_s) / 2`` for x / alpha and the
    noise-to-signal ratio s = sigma / alpha (Karras et al. 2022, algorithms 1 and 2). The last step is Euler's. n steps
    are 2n - 1 calls.
    """

    kind: Literal["heun"] = "heun"

    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images ``[N, C, H, W]`` at the clean end."""
        for t, s in pairwise(levels):
            x, t = self.churn(x, t, levels, noise)
            x = heun_step(denoise, x, t, s)
        return x


def heun_step(denoise: Denoise, x: Tensor, t: Level, s: Level) -> Tensor:
    """Return x at level s, from x at level t."""
    first = denoise(x, t)
    predicted = straight(first, s)
    if is_first_order(t, s):
        return predicted
    return along_noise(x, t, s, (first.eps + denoise(predicted, s).eps) / 2)
