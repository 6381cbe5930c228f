"""Models whose answer is known exactly, to test samplers with instead of a network.

Each returns a `denoise` function. Steps of an ancestral sampler take the posterior's variance unless another
one is passed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from diffkit.diffusion.denoise import Denoise, Denoised
from diffkit.diffusion.posterior import posterior
from diffkit.diffusion.process import Level

StepVariance = Callable[[Level, Level], float]


def _posterior_variance(t: Level, s: Level) -> float:
    return posterior(t, s).variance


def constant_noise(eps: Tensor, variance: StepVariance = _posterior_variance) -> Denoise:
    """Return the model that always sees the noise `eps`.

    A deterministic sampler that starts at ``alpha x0 + sigma eps`` must stay on that line, and end at x0.
    """

    def denoise(x: Tensor, level: Level) -> Denoised:
        return Denoised((x - level.sigma * eps) / level.alpha, eps.expand_as(x), variance)

    return denoise


def one_point(point: Tensor, variance: StepVariance = _posterior_variance) -> Denoise:
    """Return the model of data that is a single image. Every sampler must end there."""

    def denoise(x: Tensor, level: Level) -> Denoised:
        return Denoised(point.expand_as(x), (x - level.alpha * point) / level.sigma, variance)

    return denoise


def gaussian(mean: float, std: float, variance: StepVariance = _posterior_variance) -> Denoise:
    """Return the model of pixels that are independent and N(mean, std²): E[x0 | x_t] and E[eps | x_t].

    The error against `gaussian_ode_end` shows a deterministic sampler's order of convergence.
    """

    def denoise(x: Tensor, level: Level) -> Denoised:
        residual = (x - level.alpha * mean) / (level.alpha**2 * std**2 + level.sigma**2)
        return Denoised(mean + level.alpha * std**2 * residual, level.sigma * residual, variance)

    return denoise


def gaussian_ode_end(x: Tensor, level: Level, mean: float, std: float) -> Tensor:
    """Return where the probability-flow ODE of `gaussian` takes x: it keeps the standardised value."""
    return mean + std * (x - level.alpha * mean) / math.hypot(level.alpha * std, level.sigma)
