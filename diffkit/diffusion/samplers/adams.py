"""Multistep methods for the noise: a mean of the last estimates of eps, with one network call a step.

On the probability-flow ODE ``d(x / alpha) = eps ds``, s = sigma / alpha, they only differ in the weights of that mean.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Tensor

from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.levels import Levels
from diffkit.diffusion.process import Level, half_log_snr
from diffkit.diffusion.samplers.base import Noise, Sampler
from diffkit.diffusion.samplers.polynomial import exponential_moments, plain_moments, weights
from diffkit.diffusion.samplers.steps import along_noise, is_first_order, straight


class NoiseMultistep(Sampler):
    """A multistep method for the noise, by the weights that it gives to the last estimates."""

    order: int = Field(4, ge=1, le=4)
    """How many estimates of the noise are used at most. The order rises from one over the first steps."""
    falls_at_end: bool = True
    """Whether the order falls again over the last steps, to one."""

    @abstractmethod
    def mean_weights(self, past: Sequence[Level], s: Level) -> list[float]:
        """Return the weights of eps, of sum 1, at two or more past levels, the newest first, for the step to s."""

    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images ``[N, C, H, W]`` at the clean end."""
        past: list[tuple[Level, Tensor]] = []
        for done, (t, s) in enumerate(pairwise(levels)):
            estimate = denoise(x, t)
            if t.alpha > 0:  # pure noise has no finite place
                past = [(t, estimate.eps), *past][: self.order]
            used = past[: len(levels) - 1 - done] if self.falls_at_end else past
            eps = None
            if 0 < len(past) < self.order and not is_first_order(t, s):
                eps = self.starting_noise(denoise, Levels.of(levels), x, past, s)
            if eps is None and len(used) > 1:
                w = self.mean_weights([level for level, _ in used], s)
                eps = sum((of_level * then for of_level, (_, then) in zip(w, used, strict=True)), start=0 * x)
            x = straight(estimate, s) if eps is None else along_noise(x, t, s, eps)
        return x

    def starting_noise(
        self, denoise: Denoise, levels: Levels, x: Tensor, past: Sequence[tuple[Level, Tensor]], s: Level
    ) -> Tensor | None:
        """Return the mean noise of a step that has fewer estimates than the order, by another method; None to use them.

        Args:
            denoise: The model.
            levels: All levels.
            x: Noisy images at the newest of the past levels.
            past: Levels and eps so far, the newest first, at least one.
            s: The level that the step goes to, not the clean end.
        """
        return None


class Lms(NoiseMultistep):
    """Linear multistep: Adams-Bashforth in the noise-to-signal ratio, one network call a step.

    The polynomial in s = sigma / alpha through the last estimates of eps, integrated exactly over the step:
    k-diffusion's `lms`, and rho-AB of DEIS (Zhang & Chen 2023, "DEIS"). Deterministic, of the given order.
    """

    kind: Literal["lms"] = "lms"

    def mean_weights(self, past: Sequence[Level], s: Level) -> list[float]:
        """Return the weights of eps at the past levels."""
        at = [level.sigma / level.alpha for level in past]
        step = s.sigma / s.alpha - at[0]
        return weights([(ratio - at[0]) / step for ratio in at], plain_moments(len(at)))


class Deis(NoiseMultistep):
    """DEIS: an exponential integrator with Adams-Bashforth in log-SNR, one network call a step.

    The polynomial in lambda = log(alpha / sigma) through the last estimates of eps, integrated exactly over the step:
    ``x_s / alpha_s = x_t / alpha_t + ∫ eps(lambda(s)) ds`` (Zhang & Chen 2023, "DEIS", multistep AB; their polynomial
    in log s). Deterministic, of the given order.
    """

    kind: Literal["deis"] = "deis"
    order: int = Field(3, ge=1, le=4)
    """How many estimates of the noise are used at most. The order rises from one over the first steps."""

    def mean_weights(self, past: Sequence[Level], s: Level) -> list[float]:
        """Return the weights of eps at the past levels."""
        if s.sigma == 0:  # infinitely far away, where only the newest estimate is worth anything
            return [1.0, *[0.0] * (len(past) - 1)]
        at = [half_log_snr(level) for level in past]
        h = half_log_snr(s) - at[0]
        moments = exponential_moments(-h, len(at))
        return weights([(place - at[0]) / h for place in at], [moment / moments[0] for moment in moments])


class Ipndm(NoiseMultistep):
    """iPNDM: Adams-Bashforth's constants for equal steps, then a step of DDIM; one network call a step.

    ``eps = (3 eps_0 - eps_1) / 2``, ``(23 eps_0 - 16 eps_1 + 5 eps_2) / 12`` or
    ``(55 eps_0 - 59 eps_1 + 37 eps_2 - 9 eps_3) / 24`` (Zhang & Chen 2023, "DEIS", improved PNDM; the last one is Liu
    et al. 2022, "PNDM"). Since real steps aren't equal in sigma / alpha, it is of second order. Deterministic.
    """

    kind: Literal["ipndm"] = "ipndm"

    def mean_weights(self, past: Sequence[Level], s: Level) -> list[float]:
        """Return the weights of eps at the past levels."""
        return equal_step_weights(len(past))


def equal_step_weights(count: int) -> list[float]:
    """Return Adams-Bashforth's weights of so many estimates at equal steps, the newest first."""
    return weights(list(range(0, -count, -1)), plain_moments(count))
