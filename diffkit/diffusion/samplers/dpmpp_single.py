"""Single-step DPM-Solver++ with noise: a call at the start of each step, and one in its middle."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Tensor

from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.levels import Levels
from diffkit.diffusion.process import Level
from diffkit.diffusion.samplers.base import Noise, Sampler
from diffkit.diffusion.samplers.steps import ancestral, place, sde_step, straight


class Dpmpp2SAncestral(Sampler):
    """DPM-Solver++(2S) to a level below the next one, and fresh noise up to it: two calls a step, stochastic.

    ``D = x0_t + (x0_m - x0_t) / (2 r)``, ``x_s = (sigma_s / sigma_t) x - alpha_s (exp(-h) - 1) D`` with h = lambda_s -
    lambda_t and r the place of the middle level m, the process's own that is nearest to r = 1/2 (Lu et al. 2022,
    "DPM-Solver++", the solver 2S; the ancestral noise is k-diffusion's). With eta = 0 it is deterministic and second
    order. The last step is first order.
    """

    kind: Literal["dpmpp_2s_ancestral"] = "dpmpp_2s_ancestral"
    eta: float = Field(1.0, ge=0, le=1)
    """How much of the noise is drawn anew at each step: 0 for none, 1 for as much as ancestral sampling."""
    s_noise: float = Field(1.0, gt=0)
    """Factor of the fresh noise: above 1 against images that come out too smooth."""

    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images ``[N, C, H, W]`` at the clean end."""
        for t, s in pairwise(levels):
            down, up = ancestral(t, s, self.eta)
            first = denoise(x, t)
            m = Levels.of(levels).middle(t, down)
            if m is None:
                x = straight(first, down)
            else:
                second = denoise(straight(first, m), m)
                keep, pull, _ = sde_step(t, down)
                x = keep * x + pull * (first.x0 + (second.x0 - first.x0) / (2 * place(t, m, down)))
            if up > 0:
                x = x + self.s_noise * up * noise()
        return x


class DpmppSde(Sampler):
    """Single-step DPM-Solver++ on the reverse-time SDE: two calls a step, stochastic.

    ``x_s = q (sigma_s / sigma_t) x + alpha_s (1 - q exp(-h)) D + sigma_s sqrt(1 - q²) z`` with ``q = exp(-eta h)``, h
    = lambda_s - lambda_t and ``D = x0_t + (x0_m - x0_t) / (2 r)`` (the two-stage SDE solver of k-diffusion, after Lu
    et al. 2022, "DPM-Solver++"). The noise up to the middle level m is part of the noise of the whole step, as on one
    path of the SDE. Where the process has no level in the middle, and at the last step, it is first order.
    """

    kind: Literal["dpmpp_sde"] = "dpmpp_sde"
    eta: float = Field(1.0, ge=0)
    """How strong the SDE's noise is: 0 for the ODE, 1 for the reverse-time SDE."""
    s_noise: float = Field(1.0, gt=0)
    """Factor of the fresh noise: above 1 against images that come out too smooth."""

    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images ``[N, C, H, W]`` at the clean end."""
        for t, s in pairwise(levels):
            x0 = denoise(x, t).x0
            keep, pull, spread = sde_step(t, s, self.eta)
            m = Levels.of(levels).middle(t, s)
            if m is None:
                x = keep * x + pull * x0
                if spread > 0:
                    x = x + self.s_noise * spread * noise()
                continue
            first, rest = sde_step(t, m, self.eta), sde_step(m, s, self.eta)
            half = first.keep * x + first.pull * x0
            fresh = None
            if spread > 0:
                fresh = self.s_noise * first.spread * noise()
                half = half + fresh
            x0 = x0 + (denoise(half, m).x0 - x0) / (2 * place(t, m, s))
            x = keep * x + pull * x0
            if fresh is not None:
                x = x + rest.keep * fresh + self.s_noise * rest.spread * noise()
        return x
