"""The family of variances of the reverse step."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from diffkit.diffusion.posterior import posterior, transition
from diffkit.diffusion.process import CLEAN, DiscreteProcess, Level, Process
from diffkit.diffusion.true_step import TrueStep
from diffkit.spec import Component


class Variance(Component):
    """The variance of the ancestral step p(x_s | x_t) from level t to the less noisy level s."""

    family = "variance"
    learned: ClassVar[bool] = False
    """Whether the network has further channels, as many as the images, that say the variance."""

    @abstractmethod
    def of(self, t: Level, s: Level, process: Process, output: Tensor | None) -> float | Tensor:
        """Return the variance of the step, in sampling.

        It need not be 0 where s is the clean end: samplers add no noise there in any case.

        Args:
            t: The level to step from.
            s: The level to step to, at any distance.
            process: The noise process.
            output: The network's further channels ``[N, C, H, W]`` of a learned variance, else None.
        """

    @abstractmethod
    def log_of(self, step: TrueStep, output: Tensor | None) -> Tensor:
        """Return the log of the variance of steps from times to the times before, in training and in likelihoods."""

    def refuses(self, process: Process) -> str | None:
        """Return why this cannot be used with a process, and what to do, or None if it can."""
        return None


class FixedSmall(Variance):
    """The variance of the true step if the data were a single image: the smallest sensible one.

    ``sigma_ts² = variance_ts sigma_s² / sigma_t²``, the posterior's variance (Ho et al. 2020, eq. 7 and section
    3.2), with variance_ts the effective beta between the two levels.
    """

    kind: Literal["fixed_small"] = "fixed_small"

    def of(self, t: Level, s: Level, process: Process, output: Tensor | None) -> float:
        """Return the variance of q(x_s | x_t, x_0)."""
        return posterior(t, s).variance

    def log_of(self, step: TrueStep, output: Tensor | None) -> Tensor:
        """Return the log of the posterior's variance."""
        return step.log_small


class FixedLarge(Variance):
    """The variance of the true step if the data were standard normal: the largest sensible one.

    ``sigma_ts² = variance_ts`` (Ho et al. 2020, section 3.2), the effective beta between the two levels:
    ``beta_t`` for neighbouring ones, ``1 - alpha_bar_t / alpha_bar_s`` for any two.
    """

    kind: Literal["fixed_large"] = "fixed_large"

    def of(self, t: Level, s: Level, process: Process, output: Tensor | None) -> float:
        """Return the variance of q(x_t | x_s)."""
        return transition(t, s).variance

    def log_of(self, step: TrueStep, output: Tensor | None) -> Tensor:
        """Return the log of the effective beta, but at time 0 the posterior's, as the code of Ho et al. 2020 does."""
        return torch.where(step.to_image, step.log_small, step.log_large)


class LearnedVariance(Variance):
    """What the variances that a network learns share.

    The loss is the hybrid one, ``L_simple + vlb_weight L_vlb`` (Nichol & Dhariwal 2021, eq. 16), where L_vlb, the sum
    of the variational bound's terms, is in bits per dimension and estimated from the time drawn. It trains nothing but
    the variance: the mean in it is held fixed.
    """

    learned: ClassVar[bool] = True
    vlb_weight: float = Field(0.001, gt=0)
    """Weight of the variational bound beside the loss of the prediction: the paper's lambda."""

    def refuses(self, process: Process) -> str | None:
        """Refuse a process without numbered times: the variational bound has a term for each of them."""
        if isinstance(process, DiscreteProcess):
            return None
        return (
            f"a learned variance is trained on the steps between numbered times, and the process '{process.kind}' has "
            "none: use 'fixed_small' or 'fixed_large', or the process 'ddpm'"
        )


class Learned(LearnedVariance):
    """The network says the log of each pixel's variance.

    ``log sigma_t² = output`` for neighbouring times (Nichol & Dhariwal 2021, in their code). Between distant levels
    the variance keeps its ratio to the effective beta.
    """

    kind: Literal["learned"] = "learned"

    def of(self, t: Level, s: Level, process: Process, output: Tensor | None) -> Tensor:
        """Return the variance ``[N, C, H, W]``."""
        assert output is not None
        before = process.level(t.time - 1) if t.time >= 1 else CLEAN
        return torch.exp(output) * (transition(t, s).variance / transition(t, before).variance)

    def log_of(self, step: TrueStep, output: Tensor | None) -> Tensor:
        """Return the output."""
        assert output is not None
        return output


class LearnedRange(LearnedVariance):
    """The network says where each pixel's variance is, between the smallest and the largest sensible one.

    ``log sigma_ts² = v log variance_ts + (1 - v) log(variance_ts sigma_s² / sigma_t²)`` with ``v = (output + 1) / 2``
    and variance_ts the effective beta between the two levels (Nichol & Dhariwal 2021, eq. 15 and section 4).
    """

    kind: Literal["learned_range"] = "learned_range"

    def of(self, t: Level, s: Level, process: Process, output: Tensor | None) -> Tensor:
        """Return the variance ``[N, C, H, W]``; that of fixed_large at the clean end."""
        assert output is not None
        large, small = transition(t, s).variance, posterior(t, s).variance
        # near pure noise the two may be equal but for rounding
        ratio = math.log(large / small) if 0 < small < large else 0.0
        return large * torch.exp((output - 1) / 2 * ratio)

    def log_of(self, step: TrueStep, output: Tensor | None) -> Tensor:
        """Return the logs between those of the two fixed variances."""
        assert output is not None
        return step.log_small + (output + 1) / 2 * (step.log_large - step.log_small)
