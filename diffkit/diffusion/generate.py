"""From noise to images."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.process import Level
from diffkit.diffusion.samplers.base import Noise, Sampler


def generate(denoise: Denoise, sampler: Sampler, levels: Sequence[Level], noise: Noise) -> Tensor:
    """Sample images: draw the start, and let a sampler walk from there.

    Args:
        denoise: The model.
        sampler: The sampler.
        levels: The levels to visit, from a spacing; the last is the clean end.
        noise: Draws standard normal noise; called once for the start.

    Returns:
        Images ``[N, C, H, W]`` around [-1, 1], in the type of the noise.
    """
    return sampler.sample(denoise, levels, initial(levels[0], noise), noise)


def initial(level: Level, noise: Noise) -> Tensor:
    """Draw the start of a walk: ``sqrt(alpha² + sigma²) z``, the variance of x_t for data of variance 1.

    This is N(0, I) for every variance-preserving process, at whatever level the walk starts (Ho et al. 2020,
    algorithm 2), and nearly ``sigma z`` for one whose noise outgrows the images (alpha = 1, sigma >> 1).
    """
    return math.hypot(level.alpha, level.sigma) * noise()
