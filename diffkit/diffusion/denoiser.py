"""Makes of a network what a sampler sees."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffkit.diffusion.denoise import Denoise, Denoised
from diffkit.diffusion.objective import Network, Objective
from diffkit.diffusion.process import Level, Process, at_least_float32
from diffkit.diffusion.x0_rule import X0Rule


def make_denoise(
    network: Network,
    objective: Objective,
    x0_rule: X0Rule,
    *,
    process: Process | None = None,
    labels: Tensor | None = None,
    null_label: int = 0,
    guidance: float = 1.0,
) -> Denoise:
    """Return the `denoise` function of a network.

    It calls the network once, in the type of its weights, and goes on in float32 at least. Where the rule
    changed x0, eps changes with it so that x = alpha x0 + sigma eps still holds.

    Args:
        network: The network.
        objective: What it was trained for.
        x0_rule: What happens to an estimated x0.
        process: The noise process, where it scales the network's input; None where it does not.
        labels: Labels ``[N]`` of the images; None for a network without classes.
        null_label: The label that stands for no class.
        guidance: The weight w of classifier-free guidance.

    Raises:
        ValueError: If there is guidance without labels.
    """
    predict = with_guidance(network, labels, null_label, guidance)
    dtype = _dtype_of(network)

    def denoise(x: Tensor, level: Level) -> Denoised:
        time = torch.full((len(x),), level.time, dtype=torch.float32, device=x.device)
        shown = x if process is None else _scaled(x, level, process)
        output = predict(shown.to(dtype or x.dtype), time)
        output, x = output.to(at_least_float32(x.dtype)), x.to(at_least_float32(x.dtype))
        estimate = objective.prediction.x0(output, x, level.alpha, level.sigma)
        eps = objective.prediction.eps(output, x, level.alpha, level.sigma)
        x0 = x0_rule.apply(estimate)
        # exactly eps where the rule changed nothing
        eps = eps + level.alpha / level.sigma * (estimate - x0)
        return Denoised(x0, eps, objective.variance.of)

    return denoise


def with_guidance(
    network: Network, labels: Tensor | None, null_label: int, guidance: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a network's output as a function of x and time, with classifier-free guidance.

    ``output = output(no class) + w (output(class) - output(no class))`` (Ho & Salimans 2022, eq. 6, whose weight is
    w - 1): w = 0 is unconditional, 1 conditional. One call of the network, of twice the images where both outputs
    are needed. x0 and eps are linear in the output, so guiding it guides both.

    Raises:
        ValueError: If there is guidance without labels.
    """
    if labels is None:
        if guidance != 1:
            raise ValueError(f"guidance = {guidance} needs labels")
        return lambda x, time: network(x, time, None)
    no_class = torch.full_like(labels, null_label)
    if guidance in (0, 1):
        shown = labels if guidance == 1 else no_class
        return lambda x, time: network(x, time, shown)
    both = torch.cat([no_class, labels])

    def guided(x: Tensor, time: Tensor) -> Tensor:
        output = network(torch.cat([x, x]), torch.cat([time, time]), both)
        output = output.to(at_least_float32(output.dtype))  # w multiplies rounding errors too
        unconditional, conditional = output.chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    return guided


def _scaled(x: Tensor, level: Level, process: Process) -> Tensor:
    """Scale x as the process wants it, in float32 at least: before, half a float might not hold it."""
    alpha, sigma = torch.tensor([[level.alpha], [level.sigma]], dtype=torch.float64)
    scale = process.input_scale(alpha, sigma)
    return x if scale is None else scale.item() * x.to(at_least_float32(x.dtype))


def _dtype_of(network: Network) -> torch.dtype | None:
    """Return the type of a module's weights; None for a plain function or a module without any."""
    parameters = network.parameters() if isinstance(network, nn.Module) else iter(())
    return next((parameter.dtype for parameter in parameters if parameter.is_floating_point()), None)
