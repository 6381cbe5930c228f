"""The terms of the variational bound on the negative log-likelihood, in bits per dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffkit.diffusion.true_step import TrueStep

HALF_BIN = 1 / 255
"""Half the distance between two neighbouring values of 8-bit images in [-1, 1]."""


def bits_of_step(x0: Tensor, estimate: Tensor, log_variance: Tensor, step: TrueStep, time: Tensor) -> Tensor:
    """Return the bound's term of each image's step: a KL divergence, or at time 0 the decoder's likelihood.

    ``KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))`` (Ho et al. 2020, eq. 5; both are Gaussians, whose means differ
    by the factor of x_0 times the error of the estimate) and ``-log p(x_0 | x_1)`` (eq. 13).

    Args:
        x0: The 8-bit images, mapped to [-1, 1]: ``[N, C, H, W]``.
        estimate: The estimate of them, of the same shape.
        log_variance: The log of the variance of p, of a shape that fits.
        step: The true step.
        time: Whole times ``[N]``.

    Returns:
        Bits per dimension ``[N]``.
    """
    ratio = step.log_small - log_variance
    error = (step.x0 * (x0 - estimate)) ** 2
    kl = 0.5 * (torch.exp(ratio) - 1 - ratio + error * torch.exp(-log_variance))
    decoder = -log_likelihood_of_bins(x0, estimate, log_variance)
    nats = torch.where((time == 0).view(-1, 1, 1, 1), decoder, kl)
    return nats.flatten(1).mean(1) / math.log(2)


def log_likelihood_of_bins(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the log of the probability that a Gaussian gives to the bins of 8-bit values.

    A value's bin reaches half-way to its neighbours; those of the smallest and the largest value have no end
    (Ho et al. 2020, eq. 13).

    Args:
        x: The values, mapped to [-1, 1].
        mean: The Gaussian's mean, of the same shape.
        log_variance: The log of its variance, of a shape that fits.

    Returns:
        Natural logarithms, of the shape of `x`.
    """
    inverse_std = torch.exp(-log_variance / 2)
    low, high = (x - HALF_BIN - mean) * inverse_std, (x + HALF_BIN - mean) * inverse_std
    low = torch.where(x < -1 + HALF_BIN, -math.inf, low)
    high = torch.where(x > 1 - HALF_BIN, math.inf, high)
    # the same bin on the other side of the mean, where the distribution function is small and so exact
    flipped = low + high > 0
    low, high = torch.where(flipped, -high, low), torch.where(flipped, -low, high)
    log_high: Tensor = torch.special.log_ndtr(high)
    fall = (torch.special.log_ndtr(low) - log_high).clamp(max=-torch.finfo(x.dtype).eps)
    return log_high + torch.log(-torch.expm1(fall))
