"""The family of loss weightings."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from diffkit.diffusion.prediction import Prediction
from diffkit.spec import Component


class LossWeighting(Component):
    """How much each time counts in the training loss."""

    family = "loss_weighting"

    @abstractmethod
    def weight(self, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        """Return the factor of the prediction's own loss at the levels ``[N]``: ``[N]``, >= 0 and finite."""
