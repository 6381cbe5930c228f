"""The family of losses."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from diffkit.spec import Component


class Loss(Component):
    """How far an output is from its target, for each image."""

    family = "loss"

    @abstractmethod
    def per_image(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the error of each image: ``[N, C, H, W]`` twice to ``[N]``, a mean over the elements."""


class Mse(Loss):
    """The mean squared error: ``e²`` (Ho et al. 2020, eq. 14)."""

    kind: Literal["mse"] = "mse"

    def per_image(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean of e² for each image."""
        return functional.mse_loss(output, target, reduction="none").flatten(1).mean(1)


class L1(Loss):
    """The mean absolute error: ``|e|``."""

    kind: Literal["l1"] = "l1"

    def per_image(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean of |e| for each image."""
        return functional.l1_loss(output, target, reduction="none").flatten(1).mean(1)


class Huber(Loss):
    """Squared for small errors, absolute for large ones.

    ``e² / 2`` where ``|e| <= delta``, else ``delta (|e| - delta / 2)`` (Huber 1964).
    """

    kind: Literal["huber"] = "huber"
    delta: float = Field(1.0, gt=0)
    """The error at which the one turns into the other."""

    def per_image(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean Huber loss for each image."""
        return functional.huber_loss(output, target, reduction="none", delta=self.delta).flatten(1).mean(1)


class PseudoHuber(Loss):
    """A smooth Huber loss.

    ``delta² (sqrt(1 + (e / delta)²) - 1)`` for each element (Charbonnier et al. 1997): ``e² / 2`` for small
    errors, ``delta |e|`` for large ones.
    """

    kind: Literal["pseudo_huber"] = "pseudo_huber"
    delta: float = Field(1.0, gt=0)
    """The error around which the one turns into the other."""

    def per_image(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean pseudo-Huber loss for each image."""
        square = (output - target) ** 2
        # the same as the formula, without its difference of two numbers near 1
        return (square / (torch.sqrt(1 + square / self.delta**2) + 1)).flatten(1).mean(1)
