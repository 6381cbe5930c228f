"""Sampling with consistency models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor

from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.posterior import transition
from diffkit.diffusion.process import Level
from diffkit.diffusion.samplers.base import Noise, Sampler


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
