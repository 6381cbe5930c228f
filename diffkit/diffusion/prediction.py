"""The family of predictions: what the network is trained to output."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from diffkit.diffusion.process import Process
from diffkit.spec import Component


class Prediction(Component):
    """What the network outputs, and how x0 and eps follow from it.

    In every method `alpha` and `sigma` are the levels of `x`, shaped to multiply images or plain numbers;
    x = alpha x0 + sigma eps. `x0` and `eps` are linear in the output and x together: weightings rely on it.
    """

    family = "prediction"
    needs_signal: ClassVar[bool] = False
    """Whether x0 cannot be told from an output where alpha is 0."""

    def refuses(self, process: Process) -> str | None:
        """Return why this cannot be learned of a process, and what to do, or None if it can."""
        if self.needs_signal and process.no_signal_setting:
            return (
                f"process.{process.no_signal_setting} leaves no signal at the noisiest time, where a prediction of "
                f"'{self.kind_name()}' says nothing of the image: use 'velocity', 'data' or 'flow'"
            )
        return None

    @abstractmethod
    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return what the network should output."""

    @abstractmethod
    def x0(self, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return the clean images that an output stands for."""

    @abstractmethod
    def eps(self, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return the noise that an output stands for."""


class NoisePrediction(Prediction):
    """The network outputs the noise.

    ``output = eps``, so ``x0 = (x - sigma output) / alpha`` (Ho et al. 2020, eq. 14 and 15).
    """

    kind: Literal["noise"] = "noise"
    needs_signal: ClassVar[bool] = True

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
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

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
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

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return alpha eps - sigma x0."""
        return alpha * eps - sigma * x0

    def x0(self, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return (alpha x - sigma output) / (alpha² + sigma²)."""
        return (alpha * x - sigma * output) / (alpha * alpha + sigma * sigma)

    def eps(self, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return (sigma x + alpha output) / (alpha² + sigma²)."""
        return (sigma * x + alpha * output) / (alpha * alpha + sigma * sigma)


class FlowPrediction(Prediction):
    """The network outputs the direction from the image to the noise.

    ``u = eps - x0``, the time derivative of the straight way x_t = (1 - t) x0 + t eps (Lipman et al. 2023, eq. 23;
    Liu et al. 2023, eq. 1). So ``x0 = (x - sigma u) / (alpha + sigma)`` and ``eps = (x + alpha u) / (alpha + sigma)``;
    alpha + sigma is 1 on the process `flow`. Well defined at both ends.
    """

    kind: Literal["flow"] = "flow"

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return eps - x0."""
        return eps - x0

    def x0(self, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return (x - sigma output) / (alpha + sigma)."""
        return (x - sigma * output) / (alpha + sigma)

    def eps(self, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return (x + alpha output) / (alpha + sigma)."""
        return (x + alpha * output) / (alpha + sigma)


class EdmPrediction(Prediction):
    """The network outputs what a fixed part of x lacks to be x0, with a target of variance 1 at every level.

    ``x0 = c_skip x + c_out F`` with ``c_skip = alpha sigma_data² / D``, ``c_out = sigma sigma_data / sqrt(D)`` and
    ``D = sigma² + alpha² sigma_data²`` (Karras et al. 2022, eq. 7 and table 1, where alpha is 1). So
    ``F = (sigma x0 / sigma_data - alpha sigma_data eps) / sqrt(D)``. Well defined at both ends. On a
    variance-preserving process with sigma_data = 1 it is the velocity with the other sign.
    """

    kind: Literal["edm"] = "edm"
    sigma_data: float = Field(0.5, gt=0)
    """The standard deviation of the images, which are in [-1, 1]; the same as that of the process."""

    def refuses(self, process: Process) -> str | None:
        """Return that the process reckons with another standard deviation, if it does."""
        return other_std(self.sigma_data, process)

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return (sigma x0 / sigma_data - alpha sigma_data eps) / sqrt(D)."""
        return (sigma / self.sigma_data * x0 - alpha * self.sigma_data * eps) / self._d(alpha, sigma) ** 0.5

    def x0(self, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return c_skip x + c_out output."""
        d = self._d(alpha, sigma)
        return alpha * self.sigma_data**2 / d * x + sigma * self.sigma_data / d**0.5 * output

    def eps(self, output: Tensor, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return sigma x / D - alpha sigma_data output / sqrt(D)."""
        d = self._d(alpha, sigma)
        return sigma / d * x - alpha * self.sigma_data / d**0.5 * output

    def _d(self, alpha: Tensor | float, sigma: Tensor | float) -> Tensor | float:
        return sigma * sigma + alpha * alpha * self.sigma_data**2


def other_std(sigma_data: float, process: Process) -> str | None:
    """Return why a setting `sigma_data` doesn't fit a process, or None if it does."""
    if process.assumed_std in (None, sigma_data):
        return None
    return (
        f"sigma_data = {sigma_data:g} here and {process.assumed_std:g} in the process: both are the standard deviation "
        "of the images, so they must be the same"
    )
