"""The family of samplers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffkit.diffusion.denoise import Denoise, Denoised
from diffkit.diffusion.process import Level
from diffkit.spec import Component

Noise = Callable[[], Tensor]
"""Draws standard normal noise of the images' shape, each image from its own stream."""


class Sampler(Component):
    """Walks from noise to images along given levels.

    A sampler never sees the network, the prediction or the schedule: only `denoise` and the levels.
    """

    family = "sampler"

    @abstractmethod
    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images x0 that the walk ends at.

        Args:
            denoise: The model, as estimates of x0 and eps.
            levels: The levels to visit, strictly falling; the last is the clean end.
            x: Noisy images ``[N, C, H, W]`` at the first level.
            noise: Draws fresh noise, for samplers that add some.
        """

    def calls(self, levels: Sequence[Level]) -> int:
        """Return how often the walk along these levels calls `denoise`."""
        return len(self.levels_called(levels))

    def levels_called(self, levels: Sequence[Level]) -> list[Level]:
        """Return the levels at which the walk along these levels calls `denoise`: seen on a walk of a single pixel."""
        called = []
        pixel = torch.ones(1, 1, 1, 1)

        def noting(x: Tensor, level: Level) -> Denoised:
            called.append(level)
            return Denoised(pixel, pixel, lambda t, s: 0.0)

        self.sample(noting, levels, pixel, lambda: pixel)
        return called

    def is_deterministic(self, levels: Sequence[Level]) -> bool:
        """Return whether the walk along these levels adds no noise: seen on walks of a single pixel."""
        pixel = torch.ones(1, 1, 1, 1)

        def denoise(x: Tensor, level: Level) -> Denoised:
            return Denoised(x, pixel, lambda t, s: 1.0)

        one = self.sample(denoise, levels, pixel, lambda: pixel)
        other = self.sample(denoise, levels, pixel, lambda: -pixel)
        return torch.equal(one, other)
