"""Single-step DPM-Solver++ whose middle levels are the walk's own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Tensor

from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.process import Level, half_log_snr
from diffkit.diffusion.samplers.base import Noise, Sampler
from diffkit.diffusion.samplers.polynomial import exponential_moments, weights
from diffkit.diffusion.samplers.steps import sde_step


class DpmppSinglestep(Sampler):
    """DPM-Solver++(2S) and (3S), deterministic: each step goes over two or three levels, with a call at every one.

    From t over m to s ``x_s = (sigma_s / sigma_t) x_t - alpha_s (exp(-h) - 1) D``, ``D = x0_t + (x0_m - x0_t) / (2 r)``
    with h = lambda_s - lambda_t and r the place of m between them; x_m comes from a step of lower order. With three
    levels, D follows from all three estimates (Lu et al. 2022, "DPM-Solver++", the single-step solvers; the paper
    chooses r, here it is what the spacing makes it). No estimate is kept from one step to the next. The steps before
    the last that are too few for the order have a lower one, the last is first order. n steps are n network calls.
    """

    kind: Literal["dpmpp_singlestep"] = "dpmpp_singlestep"
    order: int = Field(2, ge=2, le=3)
    """Over how many levels a step goes, and its order."""
    solver: Literal["midpoint", "heun"] = "heun"
    """How x0 between the levels is found: as the polynomial through all estimates of the step, integrated exactly
    (``heun``); or from the line through the first and the newest one (``midpoint``), by its value in the middle of a
    step over two levels, by its integral over three. That is of third order only with the newest one at r = 2/3."""

    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images ``[N, C, H, W]`` at the clean end."""
        at, last = 0, len(levels) - 2
        while at <= last:
            over = 1 if at == last or levels[at].alpha == 0 else min(self.order, last - at)
            x = self._step(denoise, levels[at : at + over + 1], x)
            at += over
        return x

    def _step(self, denoise: Denoise, levels: Sequence[Level], x: Tensor) -> Tensor:
        """Return x at the last of the levels, from x at the first."""
        t, between = levels[0], x
        x0s: list[Tensor] = []
        for m, s in pairwise(levels):
            x0s.append(denoise(between, m).x0)
            x0 = x0s[0]
            if len(x0s) > 1:
                w = self._weights([half_log_snr(level) - half_log_snr(t) for level in levels[: len(x0s) + 1]])
                x0 = sum((of_x0 * each for of_x0, each in zip(w, x0s, strict=True)), start=0 * x0)
            keep, pull, _ = sde_step(t, s)
            between = keep * x + pull * x0
        return between

    def _weights(self, places: Sequence[float]) -> list[float]:
        """Return the weights of the estimates at all places but the last, where the step goes; the first is 0."""
        h = places[-1]
        nodes = [place / h for place in places[:-1]]
        if self.solver == "midpoint":
            moments = [1.0, 0.5] if len(nodes) == 2 else exponential_moments(h, 2)
            first, newest = weights([nodes[0], nodes[-1]], [moment / moments[0] for moment in moments])
            return [first, *[0.0] * (len(nodes) - 2), newest]
        moments = exponential_moments(h, len(nodes))
        return weights(nodes, [moment / moments[0] for moment in moments])
