"""What a sampler sees of a model: a function from a noisy image and its level to the estimate of x0 and eps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from diffkit.diffusion.process import Level


@dataclass(frozen=True)
class Denoised:
    """An estimate of what a noisy image x is made of: x = alpha x0 + sigma eps.

    Attributes:
        x0: The clean images ``[N, C, H, W]``.
        eps: The noise, of the same shape.
        variance: The variance of the ancestral step from the first level to the second; for each pixel where the
            network says it.
        variance_output: What the network says of a learned variance, ``[N, C, H, W]``; else None.
    """

    x0: Tensor
    eps: Tensor
    variance: Callable[[Level, Level], float | Tensor]
    variance_output: Tensor | None = None


Denoise = Callable[[Tensor, Level], Denoised]
"""Maps noisy images ``[N, C, H, W]``, all at one level, to their estimate. One step of self-conditioning a call."""
