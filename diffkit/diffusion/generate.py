"""From noise to images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.levels import Levels, full_scale
from diffkit.diffusion.process import Level
from diffkit.diffusion.samplers.base import Noise, Sampler


def generate(denoise: Denoise, sampler: Sampler, levels: Sequence[Level], noise: Noise) -> Tensor:
    """Sample images: draw the start, and let a sampler walk from there.

    Args:
        denoise: The model.
        sampler: The sampler.
        levels: The levels to visit, from a spacing, which also says what to start with.
        noise: Draws standard normal noise; called once for the start.

    Returns:
        Images ``[N, C, H, W]`` around [-1, 1], in the type of the noise.
    """
    return sampler.sample(denoise, levels, Levels.of(levels).start_scale * noise(), noise)


def initial(level: Level, noise: Noise) -> Tensor:
    """Draw the usual start of a walk: ``sqrt(alpha² + sigma²) z``."""
    return full_scale(level) * noise()
