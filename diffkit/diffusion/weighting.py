"""The family of loss weightings."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from diffkit.diffusion.prediction import Prediction
from diffkit.spec import Component


class LossWeighting(Component):
    """How much each time counts in the training loss."""

    family = "loss_weighting"

    @abstractmethod
    def weight(self, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        """Return the factor of the prediction's own loss at the levels ``[N]``: ``[N]``, >= 0 and finite."""


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
    return torch.where(alpha > sigma, through_x0, through_eps)


class UniformWeighting(LossWeighting):
    """Every time counts the same, in the loss of what the network outputs (Ho et al. 2020, eq. 14)."""

    kind: Literal["uniform"] = "uniform"

    def weight(self, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        """Return 1 for each level."""
        return torch.ones_like(alpha)


class MinSnr(LossWeighting):
    """The signal-to-noise ratio as the weight of the error in x0, cut at gamma.

    ``w = min(SNR, gamma)`` for x0 with ``SNR = alpha² / sigma²``; so ``min(SNR, gamma) / SNR`` for the noise and
    ``min(SNR, gamma) / (SNR + 1)`` for the velocity (Hang et al. 2023, section 3.4).
    """

    kind: Literal["min_snr"] = "min_snr"
    gamma: float = Field(5.0, gt=0)
    """The largest weight of the error in x0."""

    def weight(self, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        """Return the weights ``[N]`` for the prediction's output."""
        signal, noise = alpha**2, sigma**2
        by_x0 = (signal / noise).clamp(max=self.gamma)
        by_eps = (self.gamma * noise / signal).clamp(max=1)
        return output_weight(by_x0, by_eps, alpha, sigma, prediction)
