"""Denoising diffusion implicit models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Tensor

from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.process import Level
from diffkit.diffusion.samplers.base import Noise, Sampler
from diffkit.diffusion.samplers.steps import ancestral, straight


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
            down, up = ancestral(t, s, self.eta)
            x = straight(denoise(x, t), down)
            if up > 0:
                x = x + up * noise()
        return x
