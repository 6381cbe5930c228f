"""DDIM inversion: the noise that leads to a given image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.process import Level
from diffkit.diffusion.samplers.steps import straight


def invert(denoise: Denoise, levels: Sequence[Level], images: Tensor) -> Tensor:
    """Follow the probability-flow ODE from images up to noise.

    ``x_t = alpha_t x0 + sigma_t eps`` with the estimates at the level s below: DDIM's step, upwards (Song et al. 2021,
    "DDIM", section 4.3 and 5.4; Dhariwal & Nichol 2021, appendix F). At the clean end there is no estimate, and
    nothing to be removed: the first step takes eps from the level t it leads to, of ``alpha_t x0``. The error falls
    with the first power of the size of the steps.

    Args:
        denoise: The model; the way back must use the same one, with its guidance and its rule for x0.
        levels: The levels to visit, strictly falling, the last of them the clean end; they are walked upwards.
        images: Images ``[N, C, H, W]`` in [-1, 1].

    Returns:
        The noises ``[N, C, H, W]`` at the first level.

    Raises:
        ValueError: If the only step goes to pure noise, where nothing is left to take an estimate from.
    """
    x = images
    for s, t in pairwise(reversed(levels)):
        if s.sigma > 0:
            x = straight(denoise(x, s), t)
        elif t.alpha > 0:
            x = t.alpha * x
            x = x + t.sigma * denoise(x, t).eps
        else:
            raise ValueError("one step from the image to pure noise cannot be inverted: at least 2 steps must be taken")
    return x


def reconstruction_error(images: Tensor, reconstructed: Tensor) -> Tensor:
    """Return the root of the mean squared difference of each image's pixels: ``[N]``, in units of the pixels."""
    difference: Tensor = (images.double() - reconstructed.double()).flatten(1)
    return difference.square().mean(dim=1).sqrt()
