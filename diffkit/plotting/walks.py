"""Walks of a few pixels from noise to data whose exact `denoise` is known, so that no network is needed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffkit.diffusion.denoise import Denoised
from diffkit.diffusion.posterior import posterior
from diffkit.diffusion.process import CLEAN, Level
from diffkit.random import ImageNoise
from diffkit.recipe.tables import Recipe

PIXELS = 8


@dataclass(frozen=True)
class Mixture:
    """Pixels that are independent, each from one of several Gaussians: x0 ~ Σ_k weight_k N(mean_k, std²).

    So x_t ~ Σ_k weight_k N(alpha mean_k, alpha² std² + sigma²), and everything else follows in closed form.

    Attributes:
        means: The mean of each Gaussian.
        weights: The part of the pixels in each; they sum to 1.
        std: The standard deviation of all.
    """

    means: tuple[float, ...] = (-0.6, 0.5)
    weights: tuple[float, ...] = (0.4, 0.6)
    std: float = 0.12

    def denoise(self, x: Tensor, level: Level) -> Denoised:
        """Return E[x0 | x_t] and E[eps | x_t]; steps of an ancestral sampler take the posterior's variance."""
        distance, variance = self._distance(x, level)
        weights = torch.tensor(self.weights, dtype=x.dtype)
        share = torch.softmax(torch.log(weights) - distance**2 / (2 * variance), dim=-1)
        means = torch.tensor(self.means, dtype=x.dtype)
        x0 = (share * (means + level.alpha * self.std**2 / variance * distance)).sum(-1)
        eps = (share * (level.sigma / variance * distance)).sum(-1)
        return Denoised(x0, eps, lambda t, s: posterior(t, s).variance)

    def density(self, x: Tensor, level: Level) -> Tensor:
        """Return the density of x_t at values of any shape."""
        distance, variance = self._distance(x, level)
        each: Tensor = torch.exp(-(distance**2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
        return each @ torch.tensor(self.weights, dtype=x.dtype)

    def below(self, x: Tensor, level: Level) -> Tensor:
        """Return the part of all x_t that is below values of any shape."""
        distance, variance = self._distance(x, level)
        each: Tensor = torch.special.ndtr(distance / math.sqrt(variance))
        return each @ torch.tensor(self.weights, dtype=x.dtype)

    def ode_end(self, x: Tensor, level: Level) -> Tensor:
        """Return where the probability-flow ODE takes x: in one dimension it keeps the part that is below."""
        wanted = self.below(x, level)
        low = torch.full_like(x, min(self.means) - 10 * self.std)
        high = torch.full_like(x, max(self.means) + 10 * self.std)
        for _ in range(60):
            middle = (low + high) / 2
            is_low = self.below(middle, CLEAN) < wanted
            low, high = torch.where(is_low, middle, low), torch.where(is_low, high, middle)
        return (low + high) / 2

    def _distance(self, x: Tensor, level: Level) -> tuple[Tensor, float]:
        """Return how far values are from each Gaussian of x_t, along a new last dimension, and its variance."""
        means = level.alpha * torch.tensor(self.means, dtype=x.dtype)
        return x[..., None] - means, level.alpha**2 * self.std**2 + level.sigma**2


@dataclass(frozen=True)
class Walk:
    """What a sampler did.

    Attributes:
        levels: The level of each network call, and at last the clean end.
        x: The pixels at each: float64 ``[calls + 1, N]``.
        exact: Where the probability-flow ODE takes the same pixels: float64 ``[N]``; None if the sampler drew noise.
    """

    levels: list[Level]
    x: Tensor
    exact: Tensor | None


def walk(recipe: Recipe, data: Mixture) -> Walk:
    """Let a recipe's sampler walk along the recipe's levels.

    The pixels are one image. Their starts are spread evenly over the normal distribution; noise on the way is that of
    seed 0.
    """
    sample = recipe.sample
    levels = sample.spacing.levels(recipe.process, sample.steps)
    parts = (torch.arange(PIXELS, dtype=torch.float64) + 0.5) / PIXELS
    start = math.hypot(levels[0].alpha, levels[0].sigma) * torch.special.ndtri(parts)
    fresh = ImageNoise(0, [0], (1, 1, PIXELS), dtype=torch.float64)
    called: list[tuple[Level, Tensor]] = []
    drawn = 0

    def denoise(x: Tensor, level: Level) -> Denoised:
        called.append((level, x.flatten()))
        return data.denoise(x, level)

    def noise() -> Tensor:
        nonlocal drawn
        drawn += 1
        return fresh()

    end = sample.sampler.sample(denoise, levels, start.view(1, 1, 1, -1), noise).flatten()
    exact = None if drawn else data.ode_end(start, levels[0])
    return Walk([*(level for level, _ in called), CLEAN], torch.stack([*(x for _, x in called), end]), exact)
