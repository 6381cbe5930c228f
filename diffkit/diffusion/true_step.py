"""The true step back between two neighbouring times of a discrete process."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diffkit.diffusion.posterior import Levels, posterior, transition
from diffkit.diffusion.process import DiscreteProcess, per_image


class TrueStep(NamedTuple):
    """q(x_{t-1} | x_t, x_0) for times t of several images, each shaped ``[N, 1, 1, 1]`` to multiply them.

    Attributes:
        x0: The factor of x_0 in the mean.
        xt: The factor of x_t in the mean.
        log_small: The log of the variance. At time 0, where it would be -inf, that of time 1, as in the code of Ho et
            al. 2020.
        log_large: The log of the variance of q(x_t | x_{t-1}).
        to_image: Whether it is the step from time 0 to the clean end.
    """

    x0: Tensor
    xt: Tensor
    log_small: Tensor
    log_large: Tensor
    to_image: Tensor


def true_step(process: DiscreteProcess, time: Tensor, images: Tensor) -> TrueStep:
    """Return the true step from times to the times before.

    Args:
        process: The process.
        time: Whole times ``[N]``; the time before 0 is the clean end.
        images: Images ``[N, C, H, W]`` that the step is for; their type, but at least float32, is the step's.
    """
    first = time == 0
    mean = posterior(_levels(process, time), _before(process, time))
    # with a single time there is no time 1
    shown = torch.where(first, min(1, process.steps - 1), time)
    small = posterior(_levels(process, shown), _before(process, shown)).variance
    large = transition(_levels(process, time), _before(process, time)).variance
    if process.steps == 1:
        small = large
    parts = (mean.x0, mean.xt, torch.log(small), torch.log(large))
    x0, xt, log_small, log_large = (per_image(part, images) for part in parts)
    return TrueStep(x0, xt, log_small, log_large, first.view(-1, 1, 1, 1))


def _levels(process: DiscreteProcess, time: Tensor) -> Levels:
    return Levels(process.alpha(time), process.sigma(time))


def _before(process: DiscreteProcess, time: Tensor) -> Levels:
    before = _levels(process, (time - 1).clamp(min=0))
    clean = time == 0
    return Levels(torch.where(clean, 1.0, before.alpha), torch.where(clean, 0.0, before.sigma))
