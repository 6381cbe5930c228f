"""The single steps that samplers are made of, from a level t to the less noisy level s.

Written in alpha and sigma, they hold for every process, and at both of its ends: from pure noise (alpha_t = 0)
and to the clean end (sigma_s = 0).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from diffkit.diffusion.denoise import Denoised
from diffkit.diffusion.posterior import posterior
from diffkit.diffusion.process import Level, half_log_snr


def is_first_order(t: Level, s: Level) -> bool:
    """Return whether only a first-order step makes sense: from pure noise, or to the clean end.

    There the log-SNR has no finite distance to extrapolate over. The first-order step to the clean end is x0.
    """
    return t.alpha == 0 or s.sigma == 0


def straight(estimate: Denoised, s: Level) -> Tensor:
    """Return ``x_s = alpha_s x0 + sigma_s eps``: Euler's step of the probability-flow ODE, and DDIM's."""
    return s.alpha * estimate.x0 + s.sigma * estimate.eps


def along_noise(x: Tensor, t: Level, s: Level, eps: Tensor) -> Tensor:
    """Return the step for a given mean noise: ``x_s / alpha_s = x / alpha_t + (s_s - s_t) eps``, s = sigma / alpha.

    The probability-flow ODE is ``d(x / alpha) = eps ds`` (Song et al. 2021, "DDIM", section 4.3). t must not be pure
    noise.
    """
    ratio = s.alpha / t.alpha
    return ratio * x + (s.sigma - ratio * t.sigma) * eps


class SdeStep(NamedTuple):
    """x_s = keep x + pull x0 + spread z."""

    keep: float
    pull: float
    spread: float


def sde_step(t: Level, s: Level, eta: float = 0.0) -> SdeStep:
    """Return the step for a given mean x0, exact if that were the truth.

    With ``q = exp(-eta h)``, h = lambda_s - lambda_t: ``keep = q sigma_s / sigma_t``,
    ``pull = alpha_s (1 - q exp(-h))``, ``spread = sigma_s sqrt(1 - q²)``: the ODE for eta = 0, the reverse-time SDE for
    eta = 1 (DPM-Solver++, Lu et al. 2022, section on the SDE solvers).
    """
    q = (t.alpha * s.sigma / (s.alpha * t.sigma)) ** eta
    keep = q * s.sigma / t.sigma
    return SdeStep(keep, s.alpha - keep * t.alpha, s.sigma * max(0.0, 1 - q * q) ** 0.5)


class Ancestral(NamedTuple):
    """A step to a level below s, and the deviation of the noise that then leads up to s."""

    down: Level
    up: float


def ancestral(t: Level, s: Level, eta: float) -> Ancestral:
    """Split the way from t to s: down to below s, then up with fresh noise.

    ``sigma_up² = eta² variance`` of q(x_s | x_t, x0), ``sigma_down² = sigma_s² - sigma_up²``. The network is never
    called at the level below, which belongs to no time.
    """
    fresh = eta**2 * posterior(t, s).variance
    return Ancestral(Level(float("nan"), s.alpha, max(0.0, s.sigma**2 - fresh) ** 0.5), fresh**0.5)


def place(t: Level, m: Level, s: Level) -> float:
    """Return where m is between t and s in lambda: 0 at t, 1 at s. DPM-Solver's r_1."""
    start = half_log_snr(t)
    return (half_log_snr(m) - start) / (half_log_snr(s) - start)
