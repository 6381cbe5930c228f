"""What the network learns: the `[objective]` table."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from diffkit.diffusion.loss import Loss
from diffkit.diffusion.prediction import Prediction
from diffkit.diffusion.process import Process, at_least_float32, per_image
from diffkit.diffusion.time_sampling import TimeSampling
from diffkit.diffusion.variance import Variance
from diffkit.diffusion.weighting import LossWeighting
from diffkit.spec import Spec

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Maps noisy images ``[N, C, H, W]``, scaled as the process says, float32 times ``[N]`` and labels ``[N]`` or None to
outputs."""


class Objective(Spec):
    """What the network learns, and so how its output is to be read."""

    prediction: Prediction = Field("noise", validate_default=True)
    """What the network outputs."""
    variance: Variance = Field("fixed_small", validate_default=True)
    """The variance of an ancestral step back."""
    loss: Loss = Field("mse", validate_default=True)
    """How far an output is from its target."""
    weighting: LossWeighting = Field("uniform", validate_default=True)
    """How much each time counts."""
    time_sampling: TimeSampling = Field("uniform", validate_default=True)
    """Which times a training step draws."""
    label_dropout: float = Field(0.1, ge=0, lt=1)
    """Chance that training hides an image's label from a class-conditional network, which classifier-free
    guidance needs (Ho & Salimans 2022, algorithm 1)."""

    def out_channels(self, channels: int) -> int:
        """Return the number of channels that the network outputs, for images of so many."""
        return channels

    def training_loss(
        self, network: Network, process: Process, x0: Tensor, labels: Tensor | None, time: Tensor, noise: Tensor
    ) -> Tensor:
        """Return the weighted loss of each image (Ho et al. 2020, algorithm 1).

        Everything random is passed in. The loss is in float32 at least, whatever type the network outputs.

        Args:
            network: The network.
            process: The noise process.
            x0: Images ``[N, C, H, W]`` in [-1, 1].
            labels: Labels ``[N]``, some of them hidden already; None for a network without classes.
            time: Times ``[N]`` of the process.
            noise: Standard normal noise of the shape of `x0`.

        Returns:
            Losses ``[N]``; their mean is what training lowers.
        """
        x = process.add_noise(x0, noise, time)
        alpha, sigma = process.alpha(time), process.sigma(time)
        scale = process.input_scale(alpha, sigma)
        shown = x if scale is None else (per_image(scale, x) * x).to(x.dtype)
        output = network(shown, process.network_time(time).to(torch.float32), labels)
        output = output.to(at_least_float32(output.dtype))
        target = self.prediction.target(x0, noise, per_image(alpha, x0), per_image(sigma, x0))
        weight = self.weighting.weight(alpha, sigma, self.prediction)
        return weight.to(output.dtype) * self.loss.per_image(output, target.to(output.dtype))
