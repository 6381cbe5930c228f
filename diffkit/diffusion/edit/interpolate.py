"""Images between two."""

from __future__ import annotations

import torch
from torch import Tensor

from diffkit.diffusion.samplers.base import Noise


def between(first: Noise, last: Noise, parts: Tensor) -> Noise:
    """Return noise that goes over from one stream to another, for images between those that the two lead to.

    Each draw is `spherical` between the streams' draws, those on the way too. So with every sampler, also a stochastic
    one, part 0 is exactly the first stream's image and part 1 the last one's; with a deterministic one this is the
    interpolation of Song et al. 2021 ("DDIM", section 5.3).

    Args:
        first: Draws standard normal noise ``[1, C, H, W]``.
        last: Another stream of the same shape.
        parts: Where to be between the two, ``[N]`` in [0, 1].

    Returns:
        Draws standard normal noise ``[N, C, H, W]``.
    """

    def noise() -> Tensor:
        return spherical(first()[0], last()[0], parts)

    return noise


def spherical(first: Tensor, last: Tensor, parts: Tensor) -> Tensor:
    """Interpolate along the arc between two vectors.

    ``(sin((1 - p) θ) a + sin(p θ) b) / sin θ`` with θ the angle between a and b (Shoemake 1985; Song et al. 2021,
    "DDIM", appendix D.5). In many dimensions two noises are nearly orthogonal and equally long, and so what is between
    them on the arc is as long; on the straight line it would be too short to be a noise. Two of the same direction, or
    of opposite ones, have no arc: there it is the straight line.

    Args:
        first: a, of any shape: noises at one level, drawn or from `invert`.
        last: b, of the same shape.
        parts: The parts p, ``[N]``: 0 for a, 1 for b.

    Returns:
        ``[N, ...]``, in the type of a.
    """
    a, b = first.double().flatten(), last.double().flatten()
    p = parts.to(a)[:, None]
    cosine = torch.dot(a, b) / (a.norm() * b.norm()).clamp(min=torch.finfo(a.dtype).tiny)
    angle = torch.arccos(cosine.clamp(-1, 1))
    if torch.sin(angle) < 1e-6:
        arc = (1 - p) * a + p * b
    else:
        arc = (torch.sin((1 - p) * angle) * a + torch.sin(p * angle) * b) / torch.sin(angle)
    return arc.to(first.dtype).view(-1, *first.shape)
