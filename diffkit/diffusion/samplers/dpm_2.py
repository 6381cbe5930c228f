"""DPM-Solver-2, plain and with ancestral noise."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Tensor

from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.levels import Levels
from diffkit.diffusion.process import Level
from diffkit.diffusion.samplers.base import Noise, Sampler
from diffkit.diffusion.samplers.steps import along_noise, ancestral, place, straight

Middle = Literal["nearest", "exact"]


class Dpm2(Sampler):
    """DPM-Solver-2: second order, two network calls a step, the second one in its middle.

    ``eps = eps_t + (eps_m - eps_t) / (2 r)``, with ``r = (lambda_m - lambda_t) / (lambda_s - lambda_t)`` the place of
    the middle level m, here the process's own that is nearest to r = 1/2 (Lu et al. 2022, "DPM-Solver", the
    second-order solver with a general r_1). The last step is first order. n steps are up to 2n - 1 calls.
    """

    kind: Literal["dpm_2"] = "dpm_2"
    middle: Middle = "nearest"
    """Which level is in the middle of a step: the process's nearest one, or the exact one (as in k-diffusion), which
    shows the network a time between two whole ones where times are numbered."""

    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images ``[N, C, H, W]`` at the clean end."""
        for t, s in pairwise(levels):
            x = _step(denoise, levels, x, t, s, self.middle)
        return x


class Dpm2Ancestral(Sampler):
    """DPM-Solver-2 to a level below the next one, and fresh noise up to it: two calls a step, stochastic.

    The steps of `dpm_2`, with the noise of `euler_ancestral` (k-diffusion; Lu et al. 2022, "DPM-Solver").
    """

    kind: Literal["dpm_2_ancestral"] = "dpm_2_ancestral"
    eta: float = Field(1.0, ge=0, le=1)
    """How much of the noise is drawn anew at each step: 0 for none, 1 for as much as ancestral sampling."""
    s_noise: float = Field(1.0, gt=0)
    """Factor of the fresh noise: above 1 against images that come out too smooth."""
    middle: Middle = "nearest"
    """Which level is in the middle of a step, as in `dpm_2`."""

    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images ``[N, C, H, W]`` at the clean end."""
        for t, s in pairwise(levels):
            down, up = ancestral(t, s, self.eta)
            x = _step(denoise, levels, x, t, down, self.middle)
            if up > 0:
                x = x + self.s_noise * up * noise()
        return x


def _step(denoise: Denoise, levels: Sequence[Level], x: Tensor, t: Level, s: Level, middle: Middle) -> Tensor:
    first = denoise(x, t)
    m = Levels.of(levels).middle(t, s, exact=middle == "exact")
    if m is None:
        return straight(first, s)
    second = denoise(straight(first, m), m)
    return along_noise(x, t, s, first.eps + (second.eps - first.eps) / (2 * place(t, m, s)))
