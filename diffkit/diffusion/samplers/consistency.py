"""Sampling with consistency models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Tensor

from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.levels import Levels
from diffkit.diffusion.posterior import transition
from diffkit.diffusion.process import Level
from diffkit.diffusion.samplers.base import Noise, Sampler
from diffkit.diffusion.samplers.steps import straight


class Consistency(Sampler):
    """Multistep consistency sampling: the image is estimated, and noise drawn anew up to the next level. Stochastic.

    ``x_s = alpha_s x0(x_t) + sigma_s z`` (Song et al. 2023, "Consistency models", algorithm 1; Luo et al. 2023, "Latent
    consistency models", algorithm 3). Where the walk ends with the process's least noise (`spacing.end`), it is that
    end which is estimated, and the noise is what leads from there to s: ``sqrt(sigma_s² - sigma_min²) z`` in the first
    paper. For models whose x0 is the end of the ODE from x_t, as distillation trains them: then every number of steps,
    one too, draws from the data. The mean of all images that x_t may come from, which other models estimate, loses
    what makes them differ. One network call a step.
    """

    kind: Literal["consistency"] = "consistency"

    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images ``[N, C, H, W]`` at the clean end."""
        for t, s in pairwise(levels):
            x = denoise(x, t).x0
            if s is not levels[-1]:
                alpha, variance = transition(s, levels[-1])
                x = alpha * x + variance**0.5 * noise()
        return x


class Tcd(Sampler):
    """Consistency sampling that keeps a part of the noise: down to below the next level, then up with fresh noise.

    ``x_u = alpha_u x0(x_t) + sigma_u eps(x_t)``, ``x_s = (alpha_s / alpha_u) x_u + sqrt(sigma_s² - (alpha_s sigma_u /
    alpha_u)²) z`` with u the process's level at 1 - gamma of the time from the end to s (Zheng et al. 2024, "Trajectory
    consistency distillation", strategic stochastic sampling). With gamma = 0 it is `ddim`, with gamma = 1
    `consistency`; in between, errors of earlier steps are forgotten slowly, and add up slowly. The last step adds no
    noise. One network call a step.
    """

    kind: Literal["tcd"] = "tcd"
    gamma: float = Field(0.3, ge=0, le=1)
    """How far down, as a part of the time left: 0 for no fresh noise, 1 for nothing but fresh noise."""

    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images ``[N, C, H, W]`` at the clean end."""
        end = levels[-1]
        for t, s in pairwise(levels):
            u = end if s is end else Levels.of(levels).at_part(s, end, self.gamma)
            x = straight(denoise(x, t), u)
            if s is not end and u is not s:
                alpha, variance = transition(s, u)
                x = alpha * x + max(0.0, variance) ** 0.5 * noise()
        return x
