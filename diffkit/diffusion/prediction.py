"""The family of predictions: what the network is trained to output."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

from torch import Tensor

from diffkit.spec import Component


class Prediction(Component):
    """What the network outputs, and how x0 and eps follow from it.

    In every method `alpha` and `sigma` are the levels of `x`, shaped to multiply images or plain numbers;
    x = alpha x0 + sigma eps. `x0` and `eps` are linear in the output and x together: weightings rely on it.
    """

    family = "prediction"

    @abstractmethod
    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return what the network should output."""

    @abstractmethod
    def x0(self, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return the clean images that an output stands for."""

    @abstractmethod
    def eps(self, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return the noise that an output stands for."""


class NoisePrediction(Prediction):
    """The network outputs the noise.

    ``output = eps``, so ``x0 = (x - sigma output) / alpha`` (Ho et al. 2020, eq. 12 and 14).
    """

    kind: Literal["noise"] = "noise"

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return eps."""
        return eps

    def x0(self, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return (x - sigma output) / alpha."""
        return (x - sigma * output) / alpha

    def eps(self, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return the output."""
        return output


class DataPrediction(Prediction):
    """The network outputs the clean images.

    ``output = x0``, so ``eps = (x - alpha output) / sigma`` (Ho et al. 2020, section 3.2).
    """

    kind: Literal["data"] = "data"

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return x0."""
        return x0

    def x0(self, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return the output."""
        return output

    def eps(self, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return (x - alpha output) / sigma."""
        return (x - alpha * output) / sigma


class VelocityPrediction(Prediction):
    """The network outputs v, between the noise and the negated images.

    ``v = alpha eps - sigma x0``, so ``x0 = alpha x - sigma v`` and ``eps = sigma x + alpha v``, both divided by
    alpha² + sigma², which is 1 for a variance-preserving process (Salimans & Ho 2022, section 4 and appendix D).
    Well defined at both ends, with no signal and with no noise.
    """

    kind: Literal["velocity"] = "velocity"

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return alpha eps - sigma x0."""
        return alpha * eps - sigma * x0

    def x0(self, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return (alpha x - sigma output) / (alpha² + sigma²)."""
        return (alpha * x - sigma * output) / (alpha * alpha + sigma * sigma)

    def eps(self, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return (sigma x + alpha output) / (alpha² + sigma²)."""
        return (sigma * x + alpha * output) / (alpha * alpha + sigma * sigma)
