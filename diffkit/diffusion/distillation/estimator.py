"""Networks as estimates of x0 and eps, for images each at a level of its own, and the steps that these take."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from diffkit.diffusion.denoise import Denoised
from diffkit.diffusion.objective import Network, Objective
from diffkit.diffusion.process import Level, Process, per_image
from diffkit.diffusion.x0_rule import X0Rule


class Places(NamedTuple):
    """The levels of several images, or a table of levels that they take theirs from: float64 ``[N]`` each.

    Attributes:
        time: Times as the network sees them; NaN at the clean end.
        alpha: Signal levels.
        sigma: Noise levels.
    """

    time: Tensor
    alpha: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, levels: Sequence[Level], device: torch.device) -> Places:
        """Return levels as a table."""
        columns = zip(*((level.time, level.alpha, level.sigma) for level in levels), strict=True)
        return cls(*(torch.tensor(column, dtype=torch.float64, device=device) for column in columns))

    def at(self, index: Tensor) -> Places:
        """Return the levels of these numbers ``[N]``."""
        return Places(*(column[index] for column in self))


class Estimate(NamedTuple):
    """What noisy images x = alpha x0 + sigma eps are made of, ``[N, C, H, W]`` each."""

    x0: Tensor
    eps: Tensor


@dataclass(frozen=True)
class Estimator:
    """A network as an estimate of x0 and eps, for one batch.

    Attributes:
        network: The network.
        objective: What it was trained for.
        process: The noise process.
        labels: Labels ``[N]``; None for a network without classes.
        vector: Vectors ``[N, V]`` that condition it, or None.
        condition: What the network makes images from, ``[N, C', H, W]``, or None.
        guidance: The weight w of classifier-free guidance; 1 for none.
        no_class: The label that stands for no class.
        x0_rule: What happens to an estimated x0; nothing by default.
    """

    network: Network
    objective: Objective
    process: Process
    labels: Tensor | None = None
    vector: Tensor | None = None
    condition: Tensor | None = None
    guidance: float = 1.0
    no_class: int = 0
    x0_rule: X0Rule | None = None

    def __call__(self, x: Tensor, at: Places) -> Estimate:
        """Return the estimate for noisy images ``[N, C, H, W]`` at levels ``[N]``."""
        estimate = self._read(self._guided(x, at), x, at)
        if self.x0_rule is None:
            return estimate
        x0 = self.x0_rule.apply(estimate.x0)
        change = per_image(at.alpha / at.sigma, x) * (estimate.x0 - x0)
        return Estimate(x0, self.x0_rule.noise(estimate.eps, change))

    def at_one_level(self, x: Tensor, level: Level) -> Denoised:
        """Return the estimate for images that are all at one level: what samplers call `denoise`."""
        everywhere = Places.of([level], x.device).at(torch.zeros(len(x), dtype=torch.long, device=x.device))
        x0, eps = self(x, everywhere)
        return Denoised(x0, eps, lambda t, s: 0.0)

    def error(self, x: Tensor, at: Places, x0: Tensor) -> Tensor:
        """Return the weighted loss ``[N]`` of the output, whose target is the one that stands for `x0`.

        Measured as `Objective.training_loss` does: by its loss, in the output, with its weighting.

        Args:
            x: Noisy images ``[N, C, H, W]``.
            at: Their levels.
            x0: The clean images that the network should estimate from them.
        """
        output = self._output(x, at, self.labels)
        alpha, sigma = per_image(at.alpha, x), per_image(at.sigma, x)
        target = self.objective.prediction.target(x0, (x - alpha * x0) / sigma, alpha, sigma)
        weight = self.objective.weighting.weight(at.alpha, at.sigma, self.objective.prediction)
        return weight.to(output.dtype) * self.objective.loss.per_image(output, target.to(output.dtype))

    def _guided(self, x: Tensor, at: Places) -> Tensor:
        """Return the output with classifier-free guidance (Ho & Salimans 2022, eq. 6)."""
        if self.guidance == 1 or self.labels is None:
            return self._output(x, at, self.labels)
        without = self._output(x, at, torch.full_like(self.labels, self.no_class))
        return without + self.guidance * (self._output(x, at, self.labels) - without)

    def _output(self, x: Tensor, at: Places, labels: Tensor | None) -> Tensor:
        scale = self.process.input_scale(at.alpha, at.sigma)
        shown = x if scale is None else (per_image(scale, x) * x).to(x.dtype)
        output = self.objective.ask(self.network, shown, at.time, labels, vector=self.vector, condition=self.condition)
        return output.value

    def _read(self, output: Tensor, x: Tensor, at: Places) -> Estimate:
        alpha, sigma = per_image(at.alpha, x), per_image(at.sigma, x)
        prediction = self.objective.prediction
        return Estimate(prediction.x0(output, x, alpha, sigma), prediction.eps(output, x, alpha, sigma))


def noised(x0: Tensor, noise: Tensor, at: Places) -> Tensor:
    """Return ``alpha x0 + sigma noise``."""
    return per_image(at.alpha, x0) * x0 + per_image(at.sigma, x0) * noise


def step_to(estimate: Estimate, s: Places) -> Tensor:
    """Return ``x_s = alpha_s x0 + sigma_s eps``: DDIM's step (Song et al. 2021, eq. 12 with eta = 0)."""
    return noised(estimate.x0, estimate.eps, s)


def step_with(x0: Tensor, x: Tensor, t: Places, s: Places) -> Tensor:
    """Return where a step from x leads for a given x0.

    ``x_s = (sigma_s / sigma_t) x_t + (alpha_s - alpha_t sigma_s / sigma_t) x0``: DDIM's step, and exact for the ODE if
    x0 were the same all along it (Lu et al. 2022, "DPM-Solver++", eq. 9).

    Args:
        x0: The clean images ``[N, C, H, W]``.
        x: Noisy images at the levels t.
        t: The levels ``[N]`` of `x`.
        s: The less noisy levels ``[N]`` to go to.
    """
    ratio = s.sigma / t.sigma
    return per_image(ratio, x) * x + per_image(s.alpha - ratio * t.alpha, x) * x0


def x0_of_step(x: Tensor, end: Tensor, t: Places, s: Places) -> Tensor:
    """Return the x0 with which one DDIM step takes x from t to `end` at s: the inverse of `step_with`.

    ``x0 = (x_s - (sigma_s / sigma_t) x_t) / (alpha_s - (sigma_s / sigma_t) alpha_t)`` (Salimans & Ho 2022, algorithm 2
    and appendix G).

    Args:
        x: Noisy images ``[N, C, H, W]`` at the levels t.
        end: Where they should be at the less noisy levels s.
        t: The levels ``[N]`` of `x`.
        s: The levels ``[N]`` of `end`.
    """
    ratio = s.sigma / t.sigma
    pulled = per_image(s.alpha - ratio * t.alpha, x)
    return (end - per_image(ratio, x) * x) / pulled


def walk(teacher: Estimator, x: Tensor, places: Sequence[Places]) -> Tensor:
    """Return where the teacher's ODE leads, by DPM-Solver++(2M) (Lu et al. 2022, algorithm 2).

    Each step is that of `step_with`, for the estimate of x0 drawn on from the one before, ``x0 + h / (2 h_before)
    (x0 - x0_before)``, where h is a step in log(alpha / sigma). The first step, one from pure noise and the next, and
    one to the clean end are of the first order.

    Args:
        teacher: The teacher.
        x: Noisy images ``[N, C, H, W]`` at the first of the levels.
        places: The levels of each image along the way, falling; the network is not called at the last.
    """
    before: tuple[Tensor, Tensor] | None = None
    for t, s in pairwise(places):
        x0 = teacher(x, t).x0
        h = torch.log(s.alpha / s.sigma) - torch.log(t.alpha / t.sigma)
        drawn_on = x0
        if before is not None:
            share = h / (2 * before[1])
            share = torch.where(h.isfinite() & before[1].isfinite(), share, 0)
            drawn_on = x0 + per_image(share, x) * (x0 - before[0])
        x = step_with(drawn_on, x, t, s)
        before = x0, h
    return x


def same_dropout(device: torch.device) -> AbstractContextManager[None]:
    """Return a context after which the network's dropout draws what it drew within."""
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device], device_type=device.type)
