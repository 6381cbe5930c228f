"""SDEdit: images like given ones."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.generate import generate
from diffkit.diffusion.levels import Levels
from diffkit.diffusion.process import Level
from diffkit.diffusion.samplers.base import Noise, Sampler


def image_to_image(
    denoise: Denoise, sampler: Sampler, levels: Sequence[Level], images: Tensor, noise: Noise, strength: float
) -> Tensor:
    """Add noise to images up to some level, and sample from there (Meng et al. 2022, "SDEdit", section 3).

    ``x_t = alpha_t x0 + sigma_t z`` at the level that `strength` says; from there any sampler walks on. More noise
    forgets more of the images: first the details, at last everything.

    Args:
        denoise: The model.
        sampler: The sampler.
        levels: The levels of a whole walk, strictly falling; the last is the clean end.
        images: Images ``[N, C, H, W]`` in [-1, 1].
        noise: Draws standard normal noise of the images' shape.
        strength: The part of the walk to take, in (0, 1], their t_0: see `last_part`. At 1 it is plain sampling, which
            forgets also the trace of the images that the noisiest level may have left.

    Returns:
        Images ``[N, C, H, W]``, in the type of the noise.

    Raises:
        ValueError: If the strength is not in (0, 1].
    """
    if strength == 1:
        return generate(denoise, sampler, levels, noise)
    part = last_part(levels, strength)
    start, z = part[0], noise()
    return sampler.sample(denoise, part, start.alpha * images.to(z) + start.sigma * z, noise)


def last_part(levels: Sequence[Level], strength: float) -> Levels:
    """Return the last levels of a walk: of n steps the last `strength` n, rounded to whole ones, but at least one.

    Raises:
        ValueError: If the strength is not in (0, 1].
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength = {strength:g} should be above 0 and at most 1")
    steps = max(1, round(strength * (len(levels) - 1)))
    return Levels.of(levels).last(steps)
