"""The process of flow matching."""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from diffkit.diffusion.process import ContinuousProcess


class FlowProcess(ContinuousProcess):
    """The straight way from an image to noise.

    ``alpha = 1 - s``, ``sigma = s`` with ``s = shift t / (1 + (shift - 1) t)`` for t in (0, 1] (Lipman et al. 2023,
    example II with sigma_min = 0; Liu et al. 2023, eq. 1; the shift: Esser et al. 2024, eq. 23). Without a shift, s
    is t. The network sees ``time_scale s``. Goes with the prediction `flow`.
    """

    kind: Literal["flow"] = "flow"
    shift: float = Field(1.0, gt=0)
    """Moves times towards the noise if above 1, as larger images need it; training and sampling alike."""
    time_min: float = Field(0.001, gt=0, lt=1)
    """The least time that a sampler visits which chooses its last one, below `time_max`; `trailing` divides the whole
    way instead."""
    time_max: float = Field(1.0, gt=0, le=1)
    """The largest time. At 1 nothing of the image is left; below, samplers that work with the log of the
    signal-to-noise ratio can start too."""
    time_scale: float = Field(1000.0, gt=0)
    """What the network sees is times this, so that embeddings which tell 0 to 999 apart can be used."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.time_min >= self.time_max:
            raise ValueError(f"time_min = {self.time_min:g} must be smaller than time_max = {self.time_max:g}")
        return self

    @property
    def last(self) -> float:
        """The time of pure noise."""
        return 1.0

    @property
    def least_part(self) -> float:
        """The part of the way at time_min."""
        return self.time_min / self.time_max

    @property
    def no_signal_setting(self) -> str | None:
        """`time_max = 1`, if it is that."""
        return "time_max = 1" if self.time_max == 1 else None

    def alpha(self, time: Tensor) -> Tensor:
        """Return 1 - s: float64 ``[N]``."""
        t = time.to(torch.float64)
        return (1 - t) / (1 + (self.shift - 1) * t)

    def sigma(self, time: Tensor) -> Tensor:
        """Return s: float64 ``[N]``."""
        t = time.to(torch.float64)
        return self.shift * t / (1 + (self.shift - 1) * t)

    def time_of(self, log_snr: Tensor) -> Tensor:
        """Return ``1 / (1 + shift exp(log_snr / 2))``: float64 ``[N]``."""
        return torch.sigmoid(-log_snr / 2 - math.log(self.shift))

    def at(self, part: Tensor) -> Tensor:
        """Return ``part time_max``, but never the clean end itself: float64 ``[N]``."""
        return (part * self.time_max).clamp(min=torch.finfo(torch.float64).eps)

    def network_time(self, time: Tensor) -> Tensor:
        """Return ``time_scale s``: float64 ``[N]``."""
        return self.time_scale * self.sigma(time)
