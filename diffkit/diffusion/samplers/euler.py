"""Euler's method, with EDM's churn or with ancestral noise."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Tensor

from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.process import Level
from diffkit.diffusion.samplers.base import Noise, Sampler
from diffkit.diffusion.samplers.churn import Churned
from diffkit.diffusion.samplers.steps import ancestral, straight


class Euler(Churned):
    """Euler's method on the probability-flow ODE: first order, one network call a step.

    ``x_s / alpha_s = x_t / alpha_t + (s_s - s_t) eps`` with the noise-to-signal ratio s = sigma / alpha (Song et al.
    2021, "DDIM", section 4.3; algorithm 2 of Karras et al. 2022 without its correction). Without churn it is
    deterministic, and the same as `ddim`.
    """

    kind: Literal["euler"] = "euler"

    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images ``[N, C, H, W]`` at the clean end."""
        for t, s in pairwise(levels):
            x, t = self.churn(x, t, levels, noise)
            x = straight(denoise(x, t), s)
        return x


class EulerAncestral(Sampler):
    """Euler's method to a level below the next one, and fresh noise up to it: first order, stochastic.

    ``sigma_up² = eta² s_s² (s_t² - s_s²) / s_t²``, ``sigma_down² = s_s² - sigma_up²`` in noise-to-signal ratios s (the
    ancestral steps of k-diffusion). With `s_noise` = 1 it is `ddim` with the same eta; with eta = 1 too, `ddpm` with
    the variance `fixed_small`.
    """

    kind: Literal["euler_ancestral"] = "euler_ancestral"
    eta: float = Field(1.0, ge=0, le=1)
    """How much of the noise is drawn anew at each step: 0 for none, 1 for as much as ancestral sampling."""
    s_noise: float = Field(1.0, gt=0)
    """Factor of the fresh noise: above 1 against images that come out too smooth."""

    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images ``[N, C, H, W]`` at the clean end."""
        for t, s in pairwise(levels):
            down, up = ancestral(t, s, self.eta)
            x = straight(denoise(x, t), down)
            if up > 0:
                x = x + self.s_noise * up * noise()
        return x
