"""What the network learns: the `[objective]` table."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from diffkit.data.condition import Condition
from diffkit.diffusion.loss import Loss
from diffkit.diffusion.prediction import Prediction
from diffkit.diffusion.process import DiscreteProcess, Process, at_least_float32, per_image
from diffkit.diffusion.time_sampling import TimeSampling
from diffkit.diffusion.true_step import true_step
from diffkit.diffusion.variance import LearnedVariance, Variance
from diffkit.diffusion.variational import bits_of_step
from diffkit.diffusion.weighting import LossWeighting
from diffkit.nn.base import Ports
from diffkit.spec import Spec

Network = Callable[..., Tensor]
"""Maps noisy images ``[N, in_channels, H, W]``, scaled as the process says, float32 times ``[N]``, labels ``[N]`` or
None and, where it is conditioned by vectors, those ``[N, vector]`` to outputs ``[N, out_channels, H, W]``."""


class Output(NamedTuple):
    """What a network says, in float32 at least.

    Attributes:
        value: What the prediction reads, ``[N, C, H, W]``.
        variance: What a learned variance reads, of the same shape; else None.
    """

    value: Tensor
    variance: Tensor | None


class Noise(NamedTuple):
    """The noise of a training step.

    Attributes:
        target: The noise to learn, ``[N, C, H, W]``.
        shown: The noise in the images that the network sees: the same, but for input perturbation.
    """

    target: Tensor
    shown: Tensor


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
    condition: Condition = Field("none", validate_default=True)
    """The image that the network makes an image from, which it sees beside the noisy one."""
    self_conditioning: bool = False
    """Show the network its last estimate of x0 beside the noisy image. In training, half of the steps make one first,
    without a gradient; it is zero in the others and at the start of sampling (Chen et al. 2023, algorithms 1 and 2)."""
    offset_noise: float = Field(0.0, ge=0, le=10)
    """Standard deviation of a further noise that is one number for each channel of an image, which lets the network
    learn the images' brightness also where much noise hides it (Guttenberg 2023). About 0.1."""
    input_perturbation: float = Field(0.0, ge=0, le=10)
    """Standard deviation of a further noise in the images that the network sees, which it is not to find: training
    then resembles sampling, with its errors (Ning et al. 2023, algorithm 1). The paper's gamma, about 0.1."""

    def ports(self, channels: int, vector: int = 0) -> Ports:
        """Return what a network takes and gives, for images of so many channels.

        Args:
            channels: Number of channels of the images.
            vector: Size of the vector that conditions the network.
        """
        seen = 2 * channels if self.self_conditioning else channels
        return Ports(
            in_channels=seen + self.condition.channels(channels),
            out_channels=2 * channels if self.variance.learned else channels,
            vector=vector,
        )

    def draw_noise(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> Noise:
        """Draw the noise of a training step, for `count` images of a shape ``(C, H, W)``, in float32."""

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=generator, device=generator.device)

        noise = normal(count, *shape)
        if self.offset_noise:
            noise = noise + self.offset_noise * normal(count, shape[0], 1, 1)
        if not self.input_perturbation:
            return Noise(noise, noise)
        return Noise(noise, noise + self.input_perturbation * normal(count, *shape))

    def ask(
        self,
        network: Network,
        x: Tensor,
        time: Tensor,
        labels: Tensor | None,
        *,
        estimate: Tensor | None = None,
        vector: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> Output:
        """Call the network once.

        Args:
            network: The network.
            x: Noisy images ``[N, C, H, W]``, scaled as the process says.
            time: Times ``[N]`` as the network sees them.
            labels: Labels ``[N]``; None for a network without classes.
            estimate: The last estimate of x0, for self-conditioning; zeros by default.
            vector: Vectors ``[N, vector]`` for a network that is conditioned by any; zeros by default.
            condition: What the network makes images from, ``[N, C', H, W]``, as `Condition.make` returns it.

        Raises:
            ValueError: If there is no condition, and the network needs one.
        """
        channels = x.shape[1]
        seen = [x]
        if self.self_conditioning:
            seen.append(torch.zeros_like(x) if estimate is None else estimate.to(x.dtype))
        if self.condition.channels(channels):
            if condition is None:
                raise ValueError(f"the network makes images from others (condition = {self.condition.kind}): give some")
            seen.append(condition.to(x.dtype))
        x = torch.cat(seen, dim=1) if len(seen) > 1 else x
        time = time.to(torch.float32)
        output = network(x, time, labels) if vector is None else network(x, time, labels, vector)
        output = output.to(at_least_float32(output.dtype))
        if not self.variance.learned:
            return Output(output, None)
        return Output(output[:, :channels], output[:, channels:])

    def training_loss(
        self,
        network: Network,
        process: Process,
        x0: Tensor,
        labels: Tensor | None,
        time: Tensor,
        noise: Noise | Tensor,
        *,
        vector: Tensor | None = None,
        self_condition: bool = False,
    ) -> Tensor:
        """Return the weighted loss of each image (Ho et al. 2020, algorithm 1).

        Everything random is passed in. The loss is in float32 at least, whatever type the network outputs.

        Args:
            network: The network.
            process: The noise process.
            x0: Images ``[N, C, H, W]`` in [-1, 1].
            labels: Labels ``[N]``, some of them hidden already; None for a network without classes.
            time: Times ``[N]`` of the process.
            noise: Standard normal noise of the shape of `x0`, or what `draw_noise` drew.
            vector: Vectors ``[N, vector]`` for a network that is conditioned by any.
            self_condition: Make an estimate first, for the network to see. Only for `self_conditioning`.

        Returns:
            Losses ``[N]``; their mean is what training lowers.
        """
        noise = noise if isinstance(noise, Noise) else Noise(noise, noise)
        x = process.add_noise(x0, noise.shown, time)
        levels = process.alpha(time), process.sigma(time)
        alpha, sigma = (per_image(level, x0) for level in levels)
        scale = process.input_scale(*levels)
        shown = x if scale is None else (per_image(scale, x) * x).to(x.dtype)
        seen = process.network_time(time)
        condition = self.condition.make(x0) if self.condition.channels(x0.shape[1]) else None
        estimate = None
        if self_condition:
            with torch.no_grad():
                first = self.ask(network, shown, seen, labels, vector=vector, condition=condition)
                estimate = self.prediction.x0(first.value, x, alpha, sigma)
        output = self.ask(network, shown, seen, labels, estimate=estimate, vector=vector, condition=condition)
        target = self.prediction.target(x0, noise.target, alpha, sigma)
        weight = self.weighting.weight(*levels, self.prediction)
        loss = weight.to(output.value.dtype) * self.loss.per_image(output.value, target.to(output.value.dtype))
        return loss + self._variance_loss(process, x0, x, time, output)

    def _variance_loss(self, process: Process, x0: Tensor, x: Tensor, time: Tensor, output: Output) -> Tensor | float:
        """Return the part of the loss that trains a learned variance: `LearnedVariance`."""
        variance = self.variance
        if not isinstance(variance, LearnedVariance) or not isinstance(process, DiscreteProcess):
            return 0.0
        alpha, sigma = (per_image(level(time), x0) for level in (process.alpha, process.sigma))
        estimate = self.prediction.x0(output.value.detach(), x, alpha, sigma)
        step = true_step(process, time, x0)
        bits = bits_of_step(x0, estimate, variance.log_of(step, output.variance), step)
        return variance.vlb_weight * process.steps * bits
