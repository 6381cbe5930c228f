"""Pseudo numerical methods for diffusion models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.levels import Levels
from diffkit.diffusion.process import Level, half_log_snr
from diffkit.diffusion.samplers.adams import NoiseMultistep, equal_step_weights
from diffkit.diffusion.samplers.steps import along_noise


class Pndm(NoiseMultistep):
    """PNDM: classical methods in time, whose steps are those of DDIM; one network call a step, and more at the start.

    Where there are enough estimates, ``eps = (55 eps_0 - 59 eps_1 + 37 eps_2 - 9 eps_3) / 24``, as in `ipndm`. The very
    first step is Heun's, ``eps = (e_1 + e_2) / 2`` with e_1 at t and e_2 at s, one call more (Liu et al. 2022, "Pseudo
    numerical methods for diffusion models on manifolds", section 3: with `order` = 2 their S-PNDM, with 4 known as
    PLMS). Or the first steps are Runge-Kutta's, ``(e_1 + 2 e_2 + 2 e_3 + e_4) / 6`` with e_2 and e_3 at the middle of
    the time, three calls more each: their F-PNDM. Since the middle of the time is not that of sigma / alpha, all are of
    second order. Deterministic.
    """

    kind: Literal["pndm"] = "pndm"
    start: Literal["heun", "runge_kutta"] = "heun"
    """How the first steps are taken: the very first by Heun's method, and the next ones with as many estimates as
    there are; or by Runge-Kutta's until there are enough, which from nearly pure noise (a cosine schedule) blows up the
    model's errors."""

    def mean_weights(self, past: Sequence[Level], s: Level) -> list[float]:
        """Return the weights of eps at the past levels."""
        return equal_step_weights(len(past))

    def starting_noise(
        self, denoise: Denoise, levels: Levels, x: Tensor, past: Sequence[tuple[Level, Tensor]], s: Level
    ) -> Tensor | None:
        """Return the mean noise of one of the first steps."""
        t, e_1 = past[0]
        if self.start == "heun" and len(past) > 1:
            return None
        m = levels.at_part(t, s, 0.5)
        if self.start == "heun" or not half_log_snr(t) < half_log_snr(m) < half_log_snr(s):
            return (e_1 + denoise(along_noise(x, t, s, e_1), s).eps) / 2
        e_2 = denoise(along_noise(x, t, m, e_1), m).eps
        e_3 = denoise(along_noise(x, t, m, e_2), m).eps
        e_4 = denoise(along_noise(x, t, s, e_3), s).eps
        return (e_1 + 2 * e_2 + 2 * e_3 + e_4) / 6
