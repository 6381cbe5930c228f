"""Denoising diffusion implicit models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Tensor

from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.posterior import posterior
from diffkit.diffusion.process import Level
from diffkit.diffusion.samplers.base import Noise, Sampler


class Ddim(Sampler):
    """Deterministic sampling in few steps; with `eta`, anything up to ancestral sampling.

    ``x_s = alpha_s x0 + sqrt(sigma_s² - c²) eps + c z`` with ``c² = eta² sigma_s² / sigma_t² variance_ts`` (Song et
    al. 2021, eq. 12 and 16). With eta = 1 it is the sampler `ddpm` with the variance `fixed_small`. First order.
    """

    kind: Literal["ddim"] = "ddim"
    eta: float = Field(0.0, ge=0, le=1)
    """How much of the noise is drawn anew at each step: 0 for none, 1 for as much as ancestral sampling."""

    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images ``[N, C, H, W]`` at the clean end."""
        for t, s in pairwise(levels):
            estimate = denoise(x, t)
            fresh = self.eta**2 * posterior(t, s).variance
            x = s.alpha * estimate.x0 + (s.sigma**2 - fresh) ** 0.5 * estimate.eps
            if fresh > 0:
                x = x + fresh**0.5 * noise()
        return x
