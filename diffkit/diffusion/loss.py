"""The family of losses."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from diffkit.spec import Component


class Loss(Component):
    """How far an output is from its target, for each image."""

    family = "loss"

    @abstractmethod
    def per_image(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the error of each image: ``[N, C, H, W]`` twice to ``[N]``, a mean over the elements."""
