"""The family of predictions: what the network is trained to output."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from diffkit.spec import Component


class Prediction(Component):
    """What the network outputs, and how x0 and eps follow from it.

    In every method `alpha` and `sigma` are the levels of `x`, shaped to multiply images or plain numbers;
    x = alpha x0 + sigma eps.
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
