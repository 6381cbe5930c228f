"""UniPC."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from pydantic import Field
from torch import Tensor

from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.process import Level, half_log_snr
from diffkit.diffusion.samplers.base import Noise, Sampler
from diffkit.diffusion.samplers.polynomial import exponential_moments, weights
from diffkit.diffusion.samplers.steps import sde_step


class UniPc(Sampler):
    """UniPC: each step is predicted from the last estimates of x0, then corrected with the next one, at no more calls.

    ``x_s = (sigma_s / sigma_t) x + alpha_s (1 - exp(-h)) x0_t + alpha_s Σ_i w_i (x0_i - x0_t)``, with weights w for
    which the polynomial through the estimates is integrated exactly; the corrector's polynomial also goes through the
    estimate at s, which the next step needs in any case (Zhao et al. 2023, "UniPC", data prediction). With a single
    unknown weight they take ``w = B(h) / (2 r)`` instead, r the place of the estimate: `b` chooses B. The predictor is
    of the given order, together they gain one. Deterministic, one network call a step.
    """

    kind: Literal["unipc"] = "unipc"
    order: int = Field(2, ge=1, le=3)
    """How many estimates of x0 the predictor uses at most. The order rises from one over the first steps, and falls
    again over the last ones."""
    b: Literal["bh1", "bh2"] = "bh2"
    """Which B(h): ``bh1`` is h, ``bh2`` is 1 - exp(-h), better in few steps."""

    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images ``[N, C, H, W]`` at the clean end."""
        past: list[_Estimate] = []
        correct: _Step | None = None
        for done, (t, s) in enumerate(pairwise(levels)):
            x0 = denoise(x, t).x0
            if correct is not None:
                x = correct.to(self.b, _Estimate(half_log_snr(t), x0))
            keep, pull, _ = sde_step(t, s)
            if t.alpha == 0 or done == len(levels) - 2:
                x, correct = keep * x + pull * x0, None
                continue
            past = [_Estimate(half_log_snr(t), x0), *past][: min(self.order, len(levels) - 1 - done)]
            correct = _Step(s, x, keep, pull, tuple(past))
            x = correct.to(self.b)
        return x


class _Estimate(NamedTuple):
    at: float
    """lambda"""
    x0: Tensor


class _Step(NamedTuple):
    """A step to s, from x and the estimates so far, the newest first."""

    s: Level
    x: Tensor
    keep: float
    pull: float
    past: tuple[_Estimate, ...]

    def to(self, b: str, new: _Estimate | None = None) -> Tensor:
        """Return x at s: predicted, or corrected with the estimate there."""
        first, *others = [*self.past, new] if new is not None else self.past
        h = half_log_snr(self.s) - first.at
        places = [(other.at - first.at) / h for other in others]
        if len(places) == 1:
            w = [(h if b == "bh1" else -math.expm1(-h)) / (2 * places[0])]
        else:
            # the node at 0 has the rest of the weight, which `pull` holds
            w = weights([0.0, *places], exponential_moments(h, len(places) + 1))[1:]
        x = self.keep * self.x + self.pull * first.x0
        for of_other, other in zip(w, others, strict=True):
            x = x + self.s.alpha * of_other * (other.x0 - first.x0)
        return x
