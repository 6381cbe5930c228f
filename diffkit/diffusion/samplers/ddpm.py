"""Ancestral sampling."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor

from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.posterior import posterior
from diffkit.diffusion.process import Level
from diffkit.diffusion.samplers.base import Noise, Sampler


class Ddpm(Sampler):
    """Ancestral sampling, over all times or any part of them.

    ``x_s = mu(x_t, x0) + sqrt(variance) z``: mu is the mean of q(x_s | x_t, x_0) for the estimated x0, the variance
    is the model's, and the last step adds no noise (Ho et al. 2020, algorithm 2 with eq. 7). Between distant levels
    the effective beta takes the place of beta_t (Nichol & Dhariwal 2021, section 4). Stochastic.
    """

    kind: Literal["ddpm"] = "ddpm"

    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images ``[N, C, H, W]`` at the clean end."""
        for t, s in pairwise(levels):
            x = ancestral_step(denoise, x, t, s, noise)
        return x


def ancestral_step(denoise: Denoise, x: Tensor, t: Level, s: Level, noise: Noise) -> Tensor:
    """Draw x at level s from p(x_s | x_t), given x at level t."""
    estimate = denoise(x, t)
    mean = posterior(t, s)
    x = mean.x0 * estimate.x0 + mean.xt * x
    return x + estimate.variance(t, s) ** 0.5 * noise() if s.sigma > 0 else x
