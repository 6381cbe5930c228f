"""The terms of the variational bound on the negative log-likelihood, in bits per dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffkit.diffusion.true_step import TrueStep

HALF_BIN = 1 / 255
"""Half the distance between two neighbouring values of 8-bit images in [-1, 1]."""


def bits_of_step(x0: Tensor, estimate: Tensor, log_variance: Tensor, step: TrueStep) -> Tensor:
    """Return the bound's term of each image's step: a KL divergence, or at time 0 the decoder's likelihood.

    ``KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))`` (Ho et al. 2020, eq. 5; both are Gaussians, whose means differ
    by the factor of x_0 times the error of the estimate) and ``-log p(x_0 | x_1)`` (eq. 13).

    Args:
        x0: The 8-bit images, mapped to [-1, 1]: ``[N, C, H, W]``.
        estimate: The estimate of them, of the same shape.
        log_variance: The log of the variance of p, of a shape that fits.
        step: The true step.

    Returns:
        Bits per dimension ``[N]``.
    """
    kl = kl_of_gaussians(step.x0 * (x0 - estimate), step.log_small, log_variance)
    decoder = -log_likelihood_of_bins(x0, estimate, log_variance)
    return bits_per_dimension(torch.where(step.to_image, decoder, kl))


def kl_of_gaussians(difference: Tensor, log_true: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(q || p) of each pixel's Gaussians q and p, in nats.

    Args:
        difference: The mean of q less that of p.
        log_true: The log of the variance of q.
        log_variance: The log of the variance of p.
    """
    ratio = log_true - log_variance
    # expm1 keeps what is left where the variances are nearly the same: there it is added up over many steps
    return 0.5 * (torch.expm1(ratio) - ratio + difference**2 * torch.exp(-log_variance))


def bits_per_dimension(nats: Tensor) -> Tensor:
    """Turn the nats of each pixel, ``[N, C, H, W]``, into each image's bits per dimension ``[N]``."""
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
    log_high = _log_ndtr(high)
    fall = (_log_ndtr(low) - log_high).clamp(max=-torch.finfo(x.dtype).eps)
    return log_high + torch.log(-torch.expm1(fall))


def _log_ndtr(z: Tensor) -> Tensor:
    """Return the log of the standard normal distribution function.

    Far below 0 by the first terms of its series, since the gradient of torch's own is wrong there, in float32 from
    about -1,000 on. Estimates where there is little noise may be as many standard deviations away.
    """
    far = z.clamp(max=-_FAR)
    series = -0.5 * far**2 - torch.log(-far) - 0.5 * math.log(2 * math.pi) - far**-2
    near: Tensor = torch.special.log_ndtr(z.clamp(min=-_FAR))
    return torch.where(z < -_FAR, series, near)


_FAR = 50.0
"""From here on, the series' error is below 1e-9 of the whole."""
