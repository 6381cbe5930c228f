"""Multistep DPM-Solver++: earlier estimates of x0 give the order, with one network call a step."""

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


class Dpmpp2M(Sampler):
    """DPM-Solver++(2M): second order from the last two estimates of x0, one network call a step.

    ``D = (1 + 1 / (2 r)) x0_t - 1 / (2 r) x0_before``, ``x_s = (sigma_s / sigma_t) x - alpha_s (exp(-h) - 1) D``, with
    r the last step's h = lambda_s - lambda_t over this one's (Lu et al. 2022, "DPM-Solver++", algorithm 2). The first
    and the last step are first order. Deterministic.
    """

    kind: Literal["dpmpp_2m"] = "dpmpp_2m"
    solver: Literal["midpoint", "heun"] = "midpoint"
    """How the line through the two estimates is used: its value in the middle of the step, or its exact integral."""

    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images ``[N, C, H, W]`` at the clean end."""
        return _walk(denoise, levels, x, noise, order=2, midpoint=self.solver == "midpoint")


class Dpmpp3M(Sampler):
    """DPM-Solver++(3M): third order from the last three estimates of x0, one network call a step.

    The polynomial in lambda = log(alpha / sigma) through the estimates in place of x0 in
    ``x_s = (sigma_s / sigma_t) x + sigma_s ∫ exp(lambda) x0 dlambda``, integrated exactly (Lu et al. 2022,
    "DPM-Solver++", the exact solution and its multistep solvers). The order rises from one to three over the first
    steps, and falls again over the last ones. Deterministic.
    """

    kind: Literal["dpmpp_3m"] = "dpmpp_3m"

    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images ``[N, C, H, W]`` at the clean end."""
        return _walk(denoise, levels, x, noise, order=3)


class Dpmpp2MSde(Sampler):
    """SDE-DPM-Solver++(2M): the reverse-time SDE with the last two estimates of x0, one network call a step.

    ``x_s = q (sigma_s / sigma_t) x + alpha_s (1 - q exp(-h)) D + sigma_s sqrt(1 - q²) z`` with ``q = exp(-eta h)``, D
    as in `dpmpp_2m` (Lu et al. 2022, "DPM-Solver++", section on the SDE solvers; eta as in k-diffusion). Stochastic.
    """

    kind: Literal["dpmpp_2m_sde"] = "dpmpp_2m_sde"
    solver: Literal["midpoint", "heun"] = "midpoint"
    """How the line through the two estimates is used: its value in the middle of the step, or its exact integral."""
    eta: float = Field(1.0, ge=0)
    """How strong the SDE's noise is: 0 for the ODE, 1 for the reverse-time SDE."""
    s_noise: float = Field(1.0, gt=0)
    """Factor of the fresh noise: above 1 against images that come out too smooth."""

    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images ``[N, C, H, W]`` at the clean end."""
        midpoint = self.solver == "midpoint"
        return _walk(denoise, levels, x, noise, order=2, midpoint=midpoint, eta=self.eta, s_noise=self.s_noise)


class Dpmpp3MSde(Sampler):
    """SDE-DPM-Solver++(3M): the reverse-time SDE with the last three estimates of x0, one network call a step.

    The step of `dpmpp_2m_sde`, with the polynomial of `dpmpp_3m` integrated exactly (after k-diffusion and Lu et al.
    2022, "DPM-Solver++"). Stochastic.
    """

    kind: Literal["dpmpp_3m_sde"] = "dpmpp_3m_sde"
    eta: float = Field(1.0, ge=0)
    """How strong the SDE's noise is: 0 for the ODE, 1 for the reverse-time SDE."""
    s_noise: float = Field(1.0, gt=0)
    """Factor of the fresh noise: above 1 against images that come out too smooth."""

    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images ``[N, C, H, W]`` at the clean end."""
        return _walk(denoise, levels, x, noise, order=3, eta=self.eta, s_noise=self.s_noise)


def _walk(
    denoise: Denoise,
    levels: Sequence[Level],
    x: Tensor,
    noise: Noise,
    *,
    order: int,
    midpoint: bool = False,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Tensor:
    past: list[tuple[float, Tensor]] = []  # lambda and x0, the newest first
    for done, (t, s) in enumerate(pairwise(levels)):
        x0 = denoise(x, t).x0
        if t.alpha > 0:  # pure noise has no place among the lambdas
            past = [(half_log_snr(t), x0), *past][:order]
        keep, pull, spread = sde_step(t, s, eta)
        used = past[: len(levels) - 1 - done]
        if len(used) > 1:
            h = half_log_snr(s) - half_log_snr(t)
            nodes = [(at - half_log_snr(t)) / h for at, _ in used]
            moments = [1.0, 0.5] if midpoint else exponential_moments((1 + eta) * h, len(used))
            w = weights(nodes, [moment / moments[0] for moment in moments])
            x0 = sum((of_node * then for of_node, (_, then) in zip(w, used, strict=True)), start=0 * x0)
        x = keep * x + pull * x0
        if spread > 0:
            x = x + s_noise * spread * noise()
    return x
