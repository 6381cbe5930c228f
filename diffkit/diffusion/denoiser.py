"""Makes of a network what a sampler sees."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffkit.diffusion.denoise import Denoise, Denoised
from diffkit.diffusion.guidance import ClassifierFree, Classify, Guidance, Guided
from diffkit.diffusion.objective import Network, Objective, Output
from diffkit.diffusion.process import Level, Process, at_least_float32
from diffkit.diffusion.x0_rule import X0Rule

ClassifierNet = Callable[[Tensor, Tensor], Tensor]
"""Maps noisy images ``[N, C, H, W]``, scaled as the process says, and float32 times ``[N]`` as networks see them to the
logits of the classes ``[N, classes]``."""


def make_denoise(
    network: Network,
    objective: Objective,
    process: Process,
    x0_rule: X0Rule,
    *,
    labels: Tensor | None = None,
    null_label: int = 0,
    guidance: Guidance | None = None,
    guide: Network | None = None,
    classifier: ClassifierNet | None = None,
    classes: Tensor | None = None,
    condition: Tensor | None = None,
    vector: Tensor | None = None,
) -> Denoise:
    """Return the `denoise` function of a network, for one walk of one batch.

    It calls the network once (guidance may call more), in the type of its weights, and goes on in float32 at least.
    Where the rule changed x0, eps changes with it so that x = alpha x0 + sigma eps still holds, unless it keeps eps.

    Args:
        network: The network.
        objective: What it was trained for.
        process: The noise process.
        x0_rule: What happens to an estimated x0.
        labels: Labels ``[N]`` of the images; None for a network without classes.
        null_label: The label that stands for no class.
        guidance: What steers the network; nothing by default.
        guide: A second network, trained for the same objective, where the guidance asks for one.
        classifier: A classifier of images with the noise of this process, where the guidance asks for one.
        classes: The classes ``[N]`` that the classifier is to find in the images; by default the labels.
        condition: What the network makes images from, ``[N, C', H, W]``, where the objective asks for it.
        vector: Vectors ``[N, V]`` that condition the network; zeros by default.
    """
    guidance = guidance or ClassifierFree()
    asked = [_Predictor(each, objective, process, condition, vector) for each in (network, guide) if each is not None]
    model = Guided(
        predict=asked[0],
        prediction=objective.prediction,
        labels=labels,
        no_class=None if labels is None else torch.full_like(labels, null_label),
        guide=asked[1] if guide is not None else None,
        classifier=_classify(classifier, process) if classifier is not None else None,
        classes=labels if classes is None else classes,
    )

    def denoise(x: Tensor, level: Level) -> Denoised:
        output = guidance.output(model, x, level)
        x = x.to(at_least_float32(x.dtype))
        value = output.value.to(x.dtype)
        estimate = objective.prediction.x0(value, x, level.alpha, level.sigma)
        eps = objective.prediction.eps(value, x, level.alpha, level.sigma)
        x0 = x0_rule.apply(estimate)
        for predictor in asked:
            predictor.estimate = x0
        # exactly eps where the rule changed nothing
        eps = x0_rule.noise(eps, level.alpha / level.sigma * (estimate - x0))

        def variance(t: Level, s: Level) -> float | Tensor:
            return objective.variance.of(t, s, process, output.variance)

        return Denoised(x0, eps, variance, output.variance)

    return denoise


class _Predictor:
    """Shows a network noisy images of one level, and the last estimate of x0 if it is to see that."""

    def __init__(
        self,
        network: Network,
        objective: Objective,
        process: Process,
        condition: Tensor | None,
        vector: Tensor | None,
    ) -> None:
        self.network, self.objective, self.process = network, objective, process
        self.condition, self.vector = condition, vector
        self.dtype = _dtype_of(network)
        self.estimate: Tensor | None = None

    def __call__(self, x: Tensor, level: Level, labels: Tensor | None) -> Output:
        time = _time(x, level)
        shown = _scaled(x, level, self.process)
        return self.objective.ask(
            self.network,
            shown.to(self.dtype or x.dtype),
            time,
            labels,
            estimate=_for_each(x, self.estimate),
            condition=_for_each(x, self.condition),
            vector=_for_each(x, self.vector),
        )


def _for_each(x: Tensor, given: Tensor | None) -> Tensor | None:
    """Repeat what is given for each image as often as x has them: guidance may show every image twice."""
    return None if given is None else given.repeat(len(x) // len(given), *[1] * (given.dim() - 1))


def _classify(network: ClassifierNet, process: Process) -> Classify:
    """Show a classifier noisy images of one level."""
    dtype = _dtype_of(network)

    def classify(x: Tensor, level: Level) -> Tensor:
        return network(_scaled(x, level, process).to(dtype or x.dtype), _time(x, level))

    return classify


def _time(x: Tensor, level: Level) -> Tensor:
    return torch.full((len(x),), level.time, dtype=torch.float32, device=x.device)


def _scaled(x: Tensor, level: Level, process: Process) -> Tensor:
    """Scale x as the process wants it, in float32 at least: before, half a float might not hold it."""
    alpha, sigma = torch.tensor([[level.alpha], [level.sigma]], dtype=torch.float64)
    scale = process.input_scale(alpha, sigma)
    return x if scale is None else scale.item() * x.to(at_least_float32(x.dtype))


def _dtype_of(network: Network | ClassifierNet) -> torch.dtype | None:
    """Return the type of a module's weights; None for a plain function or a module without any."""
    parameters = network.parameters() if isinstance(network, nn.Module) else iter(())
    return next((parameter.dtype for parameter in parameters if parameter.is_floating_point()), None)
