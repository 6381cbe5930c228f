"""The family of rules for an estimated x0 that leaves the range of images."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from diffkit.spec import Component


class X0Rule(Component):
    """What happens to an estimate of x0 before the sampler sees it.

    One rule holds for all: where x0 was changed, eps is derived anew from x and the changed x0, so that
    x = alpha x0 + sigma eps still holds.
    """

    family = "x0_rule"

    @abstractmethod
    def apply(self, x0: Tensor) -> Tensor:
        """Return the images ``[N, C, H, W]`` to go on with, where the range of images is [-1, 1]."""
