"""The family of loss weightings."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from diffkit.diffusion.prediction import Prediction, other_std
from diffkit.diffusion.process import Process
from diffkit.spec import Component


class LossWeighting(Component):
    """How much each time counts in the training loss."""

    family = "loss_weighting"

    @abstractmethod
    def weight(self, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        """Return the factor of the prediction's own loss at the levels ``[N]``: ``[N]``, >= 0 and finite.

        Where nothing but a weight of infinity is right, such as that of an error in x0 for the noise without any
        signal, it is that.
        """

    def refuses(self, process: Process) -> str | None:
        """Return why this cannot be used with a process, and what to do, or None if it can."""
        return None


def output_weight(by_x0: Tensor, by_eps: Tensor, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
    """Turn a weight of the error in x0 into the weight of the same error in a prediction's output.

    x0 is linear in the output, so an error of 1 in the output is an error of ``c = x0(1, x = 0)`` in x0, and the
    weight of its square is ``c²`` times as large; likewise through eps. Each way is used where it is finite.

    Args:
        by_x0: Weight of the squared error in x0, at each level ``[N]``.
        by_eps: The same weighting as a weight of the squared error in eps: ``by_x0 / SNR``.
        alpha: Signal levels ``[N]``.
        sigma: Noise levels ``[N]``.
        prediction: What the network outputs.

    Returns:
        Weights ``[N]`` of the squared error in the output.
    """
    one, zero = torch.ones_like(alpha), torch.zeros_like(alpha)
    through_x0 = by_x0 * prediction.x0(one, zero, alpha, sigma) ** 2
    through_eps = by_eps * prediction.eps(one, zero, alpha, sigma) ** 2
    by_x0_is_safer = (alpha > sigma) | ~through_eps.isfinite()
    return torch.where(by_x0_is_safer, through_x0, through_eps)


class X0Weighting(LossWeighting):
    """What weightings of the error in x0 share: one definition, from which each prediction's weight follows.

    So two predictions with the same weighting and squared errors give the same gradient in x0.
    """

    @abstractmethod
    def by_x0(self, signal: Tensor, noise: Tensor) -> Tensor:
        """Return the weight of the squared error in x0, for ``signal = alpha²`` and ``noise = sigma²`` ``[N]``."""

    @abstractmethod
    def by_eps(self, signal: Tensor, noise: Tensor) -> Tensor:
        """Return the same as a weight of the squared error in eps, ``by_x0 noise / signal``, finite without signal
        where that is possible."""

    def weight(self, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        """Return the weights ``[N]`` for the prediction's output."""
        signal, noise = alpha**2, sigma**2
        return output_weight(self.by_x0(signal, noise), self.by_eps(signal, noise), alpha, sigma, prediction)


class UniformWeighting(LossWeighting):
    """Every time counts the same, in the loss of what the network outputs (Ho et al. 2020, eq. 14)."""

    kind: Literal["uniform"] = "uniform"

    def weight(self, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        """Return 1 for each level."""
        return torch.ones_like(alpha)


class MinSnr(X0Weighting):
    """The signal-to-noise ratio as the weight of the error in x0, cut at gamma.

    ``w = min(SNR, gamma)`` for x0 with ``SNR = alpha² / sigma²``; so ``min(SNR, gamma) / SNR`` for the noise and
    ``min(SNR, gamma) / (SNR + 1)`` for the velocity (Hang et al. 2023, section 3.4).
    """

    kind: Literal["min_snr"] = "min_snr"
    gamma: float = Field(5.0, gt=0)
    """The largest weight of the error in x0."""

    def by_x0(self, signal: Tensor, noise: Tensor) -> Tensor:
        """Return min(SNR, gamma)."""
        return (signal / noise).clamp(max=self.gamma)

    def by_eps(self, signal: Tensor, noise: Tensor) -> Tensor:
        """Return min(1, gamma / SNR)."""
        return (self.gamma * noise / signal).clamp(max=1)


class SoftMinSnr(X0Weighting):
    """The signal-to-noise ratio as the weight of the error in x0, bent smoothly towards gamma.

    ``w = SNR gamma / (SNR + gamma)`` for x0 (Crowson et al. 2024, "Hourglass diffusion transformers").
    """

    kind: Literal["soft_min_snr"] = "soft_min_snr"
    gamma: float = Field(4.0, gt=0)
    """The weight of the error in x0 that is never reached."""

    def by_x0(self, signal: Tensor, noise: Tensor) -> Tensor:
        """Return SNR gamma / (SNR + gamma)."""
        return self.gamma * signal / (signal + self.gamma * noise)

    def by_eps(self, signal: Tensor, noise: Tensor) -> Tensor:
        """Return gamma / (SNR + gamma)."""
        return self.gamma * noise / (signal + self.gamma * noise)


class SigmoidWeighting(X0Weighting):
    """A sigmoid of the log of the signal-to-noise ratio as the weight of the error in the noise.

    ``w = sigmoid(bias - log SNR)`` for eps (Kingma & Gao 2023; Hoogeboom et al. 2024). It is
    `soft_min_snr` with ``gamma = exp(bias)``, told in other words.
    """

    kind: Literal["sigmoid"] = "sigmoid"
    bias: float = Field(2.0, ge=-50, le=50)
    """The log of the signal-to-noise ratio at which an error in eps counts half; more lets fine detail count more."""

    def by_x0(self, signal: Tensor, noise: Tensor) -> Tensor:
        """Return exp(bias) sigmoid(log SNR - bias)."""
        gamma = math.exp(self.bias)
        return gamma * signal / (signal + gamma * noise)

    def by_eps(self, signal: Tensor, noise: Tensor) -> Tensor:
        """Return sigmoid(bias - log SNR)."""
        gamma = math.exp(self.bias)
        return gamma * noise / (signal + gamma * noise)


class SnrWeighting(X0Weighting):
    """The signal-to-noise ratio as the weight of the error in x0, which is every error in eps counting the same.

    ``w = SNR`` for x0 and 1 for eps (Ho et al. 2020, eq. 14, seen from x0; Salimans & Ho 2022, section 4).
    """

    kind: Literal["snr"] = "snr"

    def by_x0(self, signal: Tensor, noise: Tensor) -> Tensor:
        """Return SNR."""
        return signal / noise

    def by_eps(self, signal: Tensor, noise: Tensor) -> Tensor:
        """Return 1."""
        return torch.ones_like(signal)


class TruncatedSnr(X0Weighting):
    """The signal-to-noise ratio as the weight of the error in x0, but never below a floor.

    ``w = max(SNR, floor)`` for x0 (Salimans & Ho 2022, section 4, with the floor 1).
    """

    kind: Literal["truncated_snr"] = "truncated_snr"
    floor: float = Field(1.0, gt=0)
    """The smallest weight of the error in x0."""

    def by_x0(self, signal: Tensor, noise: Tensor) -> Tensor:
        """Return max(SNR, floor)."""
        return (signal / noise).clamp(min=self.floor)

    def by_eps(self, signal: Tensor, noise: Tensor) -> Tensor:
        """Return max(1, floor / SNR)."""
        return (self.floor * noise / signal).clamp(min=1)


class P2(X0Weighting):
    """Less weight where there is little noise, and only imperceptible detail is learned.

    ``w = 1 / (k + SNR)^gamma`` for eps (Choi et al. 2022).
    """

    kind: Literal["p2"] = "p2"
    gamma: float = Field(1.0, ge=0)
    """How strongly the weight falls; 0 is the same weight for all errors in eps."""
    k: float = Field(1.0, gt=0)
    """The signal-to-noise ratio from which it falls."""

    def by_x0(self, signal: Tensor, noise: Tensor) -> Tensor:
        """Return SNR / (k + SNR)^gamma."""
        return signal / noise * self.by_eps(signal, noise)

    def by_eps(self, signal: Tensor, noise: Tensor) -> Tensor:
        """Return 1 / (k + SNR)^gamma."""
        return (self.k + signal / noise) ** -self.gamma


class EdmWeighting(X0Weighting):
    """The weight at which the output of EDM's network counts the same at every level.

    ``w = (sigma² + sigma_data²) / (sigma sigma_data)² = SNR + 1 / sigma_data²`` for x0 (Karras et al. 2022, table 1),
    which is 1 for the prediction `edm`.
    """

    kind: Literal["edm"] = "edm"
    sigma_data: float = Field(0.5, gt=0)
    """The standard deviation of the images, which are in [-1, 1]; the same as that of the process."""

    def refuses(self, process: Process) -> str | None:
        """Return that the process reckons with another standard deviation, if it does."""
        return other_std(self.sigma_data, process)

    def by_x0(self, signal: Tensor, noise: Tensor) -> Tensor:
        """Return SNR + 1 / sigma_data²."""
        return signal / noise + 1 / self.sigma_data**2

    def by_eps(self, signal: Tensor, noise: Tensor) -> Tensor:
        """Return 1 + 1 / (SNR sigma_data²)."""
        return 1 + noise / signal / self.sigma_data**2
