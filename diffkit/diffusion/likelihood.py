"""How probable a model finds images: the variational bound, and the probability-flow ODE's likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from diffkit.diffusion.denoise import Denoise, Denoised
from diffkit.diffusion.posterior import posterior
from diffkit.diffusion.process import CLEAN, ContinuousProcess, DiscreteProcess, Level, Process
from diffkit.diffusion.spacing import distinct
from diffkit.diffusion.true_step import true_step
from diffkit.diffusion.variance import Variance
from diffkit.diffusion.variational import HALF_BIN, bits_per_dimension, kl_of_gaussians, log_likelihood_of_bins

Probe = Literal["rademacher", "gaussian"]


@dataclass(frozen=True)
class VariationalBound:
    """The terms of the variational bound on the negative log-likelihood of images, in bits per dimension.

    Attributes:
        times: The n times visited, falling, the last of them 0.
        prior: KL(q(x_T | x_0) || p(x_T)) of each image: ``[N]``.
        kl: KL(q(x_s | x_t, x_0) || p(x_s | x_t)) of each image, for all times t but the last: ``[N, n - 1]``.
        decoder: -log p(x_0 | x_t) at time 0, for 8-bit values: ``[N]``.
        x0_mse: The mean squared error of the estimated x_0 at each time: ``[N, n]``.
        eps_mse: That of the estimated noise.
    """

    times: tuple[int, ...]
    prior: Tensor
    kl: Tensor
    decoder: Tensor
    x0_mse: Tensor
    eps_mse: Tensor

    @property
    def total(self) -> Tensor:
        """The bound of each image: ``[N]``."""
        return self.prior + self.kl.sum(dim=1) + self.decoder


def bound_refused(process: Process) -> str | None:
    """Return why a process has no variational bound, and what to do, or None if it has one."""
    if isinstance(process, DiscreteProcess):
        return None
    return (
        f"the variational bound has a term for each numbered time, and the process '{process.kind}' has none: use the "
        "likelihood of its ODE"
    )


def variational_bound(
    denoise: Denoise,
    variance: Variance,
    process: Process,
    times: Sequence[int],
    x0: Tensor,
    noise: Callable[[int], Tensor],
) -> VariationalBound:
    """Estimate the variational bound of 8-bit images, from one noise at each time.

    ``L_T + Σ L_{t-1} + L_0`` (Ho et al. 2020, eq. 5), with the discretised decoder of eq. 13, as Nichol & Dhariwal
    2021 report it (section 3). The walk may leave times out: that is the bound of the model that samples at these
    times (their section 4), and a larger one. ``p(x_T)`` is what sampling starts at: `initial`.

    Args:
        denoise: The model, asked at one time after the other. No answer may depend on an earlier one.
        variance: The variance of its steps.
        process: The process.
        times: The times to visit, strictly falling; the last is 0.
        x0: 8-bit images mapped to [-1, 1]: ``[N, C, H, W]``.
        noise: Returns the noise of a time, of the shape of `x0`.

    Returns:
        The terms, as float64 on the CPU.

    Raises:
        ValueError: If the process has no numbered times, or the times are not as said.
    """
    if not isinstance(process, DiscreteProcess):
        raise ValueError(bound_refused(process))
    if not times or times[-1] != 0 or any(t <= s for t, s in pairwise(times)):
        raise ValueError(f"the times of the bound must fall strictly and end at 0, not {list(times)}")
    levels = [process.level(time) for time in times]
    terms, x0_mse, eps_mse = [], [], []
    for time, t, s in zip(times, levels, [*levels[1:], CLEAN], strict=True):
        eps = noise(time)
        found = denoise(t.alpha * x0 + t.sigma * eps, t)
        if s is CLEAN:
            step = true_step(process, torch.zeros(len(x0), dtype=torch.int64, device=x0.device), x0)
            log_variance = variance.log_of(step, found.variance_output)
            nats = -log_likelihood_of_bins(x0, found.x0, log_variance)
        else:
            true = posterior(t, s)
            log_variance = _log(variance.of(t, s, process, found.variance_output), x0)
            nats = kl_of_gaussians(true.x0 * (x0 - found.x0), _log(true.variance, x0), log_variance)
        terms.append(_kept(bits_per_dimension(nats)))
        x0_mse.append(_kept((x0 - found.x0).square().flatten(1).mean(1)))
        eps_mse.append(_kept((eps - found.eps).square().flatten(1).mean(1)))
    *kl, decoder = terms
    return VariationalBound(
        times=tuple(times),
        prior=_kept(bits_per_dimension(_prior(levels[0], x0))),
        kl=torch.stack(kl, dim=1) if kl else torch.zeros(len(x0), 0, dtype=torch.float64),
        decoder=decoder,
        x0_mse=torch.stack(x0_mse, dim=1),
        eps_mse=torch.stack(eps_mse, dim=1),
    )


def _prior(level: Level, x0: Tensor) -> Tensor:
    """Return KL(N(alpha x_0, sigma²) || N(0, alpha² + sigma²)) of each pixel, exact where alpha is small."""
    signal = level.alpha**2 / (level.alpha**2 + level.sigma**2)
    return 0.5 * (signal * x0.square() - signal - math.log1p(-signal))


def _log(variance: float | Tensor, like: Tensor) -> Tensor:
    return variance.log() if isinstance(variance, Tensor) else like.new_tensor(math.log(variance))


def _kept(values: Tensor) -> Tensor:
    """Bring a term's values to the CPU, in a type whose sums over many times lose nothing."""
    return values.cpu().to(torch.float64)


def ode_levels(process: Process, steps: int, *, whole: bool = False) -> list[Level]:
    """Return the levels that a solution of the ODE should visit: `steps` + 1, from the most noise to the least.

    They are even in ``arsinh(alpha / sigma)``, in which the ODE is smooth at both ends: nearly the log of the
    signal-to-noise ratio, but finite where there is no signal. Fewer levels are returned if a process of numbered times
    has no others in between.

    Args:
        process: The process.
        steps: The number of steps, at least 1.
        whole: Visit whole times of a discrete process only. By default those between its numbers too.
    """
    least = process.least_part if isinstance(process, ContinuousProcess) else 0.0
    if whole and isinstance(process, DiscreteProcess):
        steps = min(steps, process.steps - 1)
    first, last = (float(time) for time in process.at(torch.tensor([1.0, least], dtype=torch.float64)))
    start, end = (_place(process.level(time)) for time in (first, last))
    inner = [math.log(math.sinh(start + (end - start) * i / steps)) for i in range(1, steps)]
    between: list[float] = process.time_of(2 * torch.tensor(inner, dtype=torch.float64)).tolist()
    times = list(dict.fromkeys([first, *between, last]))
    if whole and isinstance(process, DiscreteProcess):
        times = [float(time) for time in distinct(times, process.steps)]
    return [process.level(time) for time in times]


def ode_log_likelihood(denoise: Denoise, levels: Sequence[Level], x: Tensor, probe: Tensor | None = None) -> Tensor:
    """Return the log density of images under the probability-flow ODE, by Heun's method.

    ``log p(x) = log N(u_T; 0, I) + ∫ div f dw`` along the solution from the images to the noise (Song et al. 2021,
    "Score-based generative modeling through SDEs", eq. 39), with ``div f`` or its unbiased estimate
    ``probeᵀ (∂f/∂u) probe`` (eq. 40). Here the ODE is written so that it is smooth at both ends: with
    ``sin, cos = (sigma, alpha) / sqrt(alpha² + sigma²)``, ``u = cos x0 + sin eps`` and ``w = -arsinh(alpha / sigma)``
    it is ``du/dw = f = sin (cos eps - sin x0)``.

    It is the density of the model whose ODE stops at the least noise of the levels: exactly that of x / alpha there.

    Args:
        denoise: The model. No answer may depend on an earlier one.
        levels: The n + 1 levels of n steps, falling, without the clean end: `ode_levels`. The model is asked 2n times.
        x: Images ``[N, C, H, W]``, around [-1, 1].
        probe: What `draw_probe` drew, of that shape. Without it the divergence is exact, and takes a pass back through
            the model for each element.

    Returns:
        Natural logarithms ``[N]``.

    Raises:
        ValueError: If there is no step, or the levels do not fall from noise to less noise.
    """
    places = [_place(level) if level.sigma > 0 else math.inf for level in levels]
    if len(levels) < 2 or not math.isfinite(places[-1]) or any(a >= b for a, b in pairwise(places)):
        raise ValueError("the ODE needs at least two levels, strictly falling and above the clean end")
    dimensions = x[0].numel()
    least = levels[-1]
    cos = least.alpha / math.hypot(least.alpha, least.sigma)
    u = cos * x
    gained = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for s, t in pairwise(reversed(levels)):
        step = _place(s) - _place(t)
        slope, divergence = _slope(denoise, u, s, probe)
        next_slope, next_divergence = _slope(denoise, u + step * slope, t, probe)
        u = u + step / 2 * (slope + next_slope)
        gained = gained + step / 2 * (divergence + next_divergence)
    end = -0.5 * (u.square().flatten(1).sum(1) + dimensions * math.log(2 * math.pi))
    return end + gained + dimensions * math.log(cos)


def draw_probe(normal: Tensor, kind: Probe = "rademacher") -> Tensor:
    """Return random numbers of mean 0 and variance 1, all independent, for Hutchinson's estimator.

    Args:
        normal: Standard normal numbers.
        kind: ``gaussian``: these. ``rademacher``: their signs, -1 or 1, with which the estimate varies the least.
    """
    return torch.where(normal < 0, -1.0, 1.0).to(normal.dtype) if kind == "rademacher" else normal


def _place(level: Level) -> float:
    return math.asinh(level.alpha / level.sigma)


def _slope(denoise: Denoise, u: Tensor, level: Level, probe: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return f, and its divergence for each image ``[N]``."""
    length = math.hypot(level.alpha, level.sigma)
    cos, sin = level.alpha / length, level.sigma / length
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        found: Denoised = denoise(length * u, level)
        slope = sin * (cos * found.eps - sin * found.x0)
        return slope.detach(), _divergence(slope, u, probe)


def _divergence(slope: Tensor, u: Tensor, probe: Tensor | None) -> Tensor:
    if probe is not None:
        (pulled,) = torch.autograd.grad(slope, u, probe)
        return (pulled * probe).flatten(1).sum(1)
    elements = slope.flatten(1)
    rows = [
        torch.autograd.grad(elements[:, i].sum(), u, retain_graph=True)[0].flatten(1)[:, i]
        for i in range(elements.shape[1])
    ]
    return torch.stack(rows).sum(0)


def dequantized(pixels: Tensor, uniform: Tensor) -> Tensor:
    """Spread 8-bit values evenly over their bins: uint8 of any shape to floats around [-1, 1].

    Args:
        pixels: The values u, whose bin is the numbers nearer to u / 127.5 - 1 than to any other value.
        uniform: Random numbers in [0, 1) of the same shape.
    """
    return (pixels + uniform - 0.5) / 127.5 - 1


def bits_of_pixels(log_density: Tensor, dimensions: int) -> Tensor:
    """Turn the log density of dequantized images into bits per dimension of the 8-bit ones, ``[N]``.

    A bin's probability is at least ``exp(E[log density])`` times its width 2 / 255 (Theis et al. 2016), so
    that each dimension costs log2(127.5), about 7, bits more.
    """
    return -(log_density / dimensions + math.log(2 * HALF_BIN)) / math.log(2)
