"""Predictor-corrector sampling."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.process import Level
from diffkit.diffusion.samplers.base import Noise, Sampler
from diffkit.diffusion.samplers.ddpm import ancestral_step


class PredictorCorrector(Sampler):
    """Ancestral steps, each followed by Langevin steps at the new level. Stochastic.

    The predictor is a step of `ddpm`, with the model's variance. The corrector is ``x + e g + sqrt(2 e) z`` with the
    score ``g = -eps / sigma`` and ``e = 2 (r |z| / |g|)²`` (Song et al. 2021, "Score-based generative modeling through
    SDEs", appendix on predictor-corrector samplers). The norms are each image's own. The factor alpha_i of their
    variance-preserving version, nearly 1, is left out: without it the result is the same whatever x is scaled by.
    There is no corrector at the clean end: n steps are n + (n - 1) `corrections` network calls.
    """

    kind: Literal["predictor_corrector"] = "predictor_corrector"
    snr: float = Field(0.16, gt=0)
    """The signal-to-noise ratio r of the Langevin steps: their size."""
    corrections: int = Field(1, ge=1, le=1000)
    """Langevin steps at each level."""

    def sample(self, denoise: Denoise, levels: Sequence[Level], x: Tensor, noise: Noise) -> Tensor:
        """Return the images ``[N, C, H, W]`` at the clean end."""
        for t, s in pairwise(levels):
            x = ancestral_step(denoise, x, t, s, noise)
            for _ in range(self.corrections if s.sigma > 0 else 0):
                x = self._correct(denoise, x, s, noise())
        return x

    def _correct(self, denoise: Denoise, x: Tensor, level: Level, z: Tensor) -> Tensor:
        score = -denoise(x, level).eps / level.sigma
        size = 2 * (self.snr * _norm(z) / _norm(score)) ** 2
        return x + size * score + (2 * size) ** 0.5 * z


def _norm(images: Tensor) -> Tensor:
    """Return each image's norm, shaped to multiply it; never 0."""
    least = torch.finfo(images.dtype).tiny ** 0.25
    norm: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1).clamp(min=least)
    return norm.view(-1, *[1] * (images.dim() - 1))
