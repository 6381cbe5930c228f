"""The process of EDM."""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from diffkit.diffusion.process import ContinuousProcess


class EdmProcess(ContinuousProcess):
    """Noise of a growing standard deviation on images that keep their size: the time is sigma.

    ``alpha = 1``, ``sigma = t`` (Karras et al. 2022, section 2 and table 1). The network sees ``c_in x`` with
    ``c_in = 1 / sqrt(sigma² + sigma_data²)``, and ``c_noise = ln(sigma) / 4`` as its time. Equal steps of this
    process are equal factors of sigma. EDM itself goes with the prediction `edm`, the weighting `edm`, the time
    sampling `lognormal` and the spacing `karras`.
    """

    kind: Literal["edm"] = "edm"
    sigma_min: float = Field(0.002, gt=0)
    """The least noise that a sampler visits, below `sigma_max`."""
    sigma_max: float = Field(80.0, gt=0)
    """The noise that sampling starts at."""
    sigma_data: float = Field(0.5, gt=0)
    """The standard deviation of the images, which are in [-1, 1]."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min = {self.sigma_min:g} must be smaller than sigma_max = {self.sigma_max:g}")
        return self

    @property
    def last(self) -> float:
        """There is no largest sigma."""
        return math.inf

    @property
    def assumed_std(self) -> float:
        """sigma_data."""
        return self.sigma_data

    def alpha(self, time: Tensor) -> Tensor:
        """Return 1 for each time: float64 ``[N]``."""
        return torch.ones_like(time, dtype=torch.float64)

    def sigma(self, time: Tensor) -> Tensor:
        """Return the times: float64 ``[N]``."""
        return time.to(torch.float64)

    def time_of(self, log_snr: Tensor) -> Tensor:
        """Return ``exp(-log_snr / 2)``: float64 ``[N]``."""
        return torch.exp(-log_snr / 2)

    def at(self, part: Tensor) -> Tensor:
        """Return ``sigma_min^(1 - part) sigma_max^part``: float64 ``[N]``."""
        return self.sigma_min ** (1 - part) * self.sigma_max**part

    def network_time(self, time: Tensor) -> Tensor:
        """Return c_noise: float64 ``[N]``."""
        return torch.log(time.to(torch.float64)) / 4

    def input_scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return c_in, which gives x the variance 1."""
        return 1 / torch.sqrt(sigma**2 + (alpha * self.sigma_data) ** 2)
