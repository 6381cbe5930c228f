"""Guidance by a classifier of noisy images."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from diffkit.diffusion.guidance import Classify, Guidance, Guided
from diffkit.diffusion.objective import Output
from diffkit.diffusion.process import Level, at_least_float32
from diffkit.spec import FilePath


class ClassifierGuidance(Guidance):
    """Towards what a classifier of noisy images takes for the class.

    ``eps -> eps - w sigma g`` and so ``x0 -> x0 + w sigma² / alpha g``, with ``g`` the gradient of ``log p(y | x)`` by
    the noisy images x (Dhariwal & Nichol 2021, eq. 14 and algorithm 2, with w the classifier's scale). On a network
    without classes w = 1 is Bayes' rule, so conditional; a class-conditional network sees the label as well. Where
    alpha is 0 an image says nothing of its class, and nothing is changed. A learned variance is the network's.

    The network is called once. The classifier costs a forward and a backward pass more, in float32.
    """

    kind: Literal["classifier"] = "classifier"
    neutral: ClassVar[float] = 0.0
    needs_classes: ClassVar[bool] = True
    weight: float = 1.0
    """The weight w: 0 leaves the model as it is; 1 makes a network without classes conditional; more exaggerates."""
    classifier: FilePath
    """What `diffkit train-classifier` wrote: the file, or the run folder that holds it."""

    def output(self, model: Guided, x: Tensor, level: Level) -> Output:
        """Return the guided output.

        Raises:
            ValueError: If there is no classifier, or no classes to look for.
        """
        plain = model.predict(x, level, model.labels)
        w = self.weight_at(level)
        if w == 0 or level.alpha == 0:
            return plain
        if model.classifier is None or model.classes is None:
            raise ValueError("classifier guidance needs a classifier and the class of each image")
        gradient = gradient_of_log_likelihood(model.classifier, model.classes, x, level)
        x0, eps = w * level.sigma**2 / level.alpha * gradient, -w * level.sigma * gradient
        # an output is linear in x0 and eps, so what is added to these adds its own target
        shift = model.prediction.target(x0, eps, level.alpha, level.sigma)
        return Output(plain.value + shift, plain.variance)

    def evaluations(self, level: Level) -> int:
        """Return 1: the network's; the classifier is not counted."""
        return 1

    @property
    def classifier_file(self) -> Path:
        """The classifier."""
        return self.classifier

    @classmethod
    def example_settings(cls) -> dict[str, str]:
        """Return a classifier that isn't there: nothing reads it before the network is loaded."""
        return {"classifier": "runs/example"}


def gradient_of_log_likelihood(classify: Classify, classes: Tensor, x: Tensor, level: Level) -> Tensor:
    """Return the gradient of log p(class | x) by x, for noisy images ``[N, C, H, W]`` and classes ``[N]``.

    Works in inference mode too. In float32 at least.
    """
    with torch.inference_mode(False), torch.enable_grad():  # clones, as autograd takes no tensors of inference mode
        x = x.to(at_least_float32(x.dtype), copy=True).detach().requires_grad_()
        logits = classify(x, level)
        likely = logits.to(at_least_float32(logits.dtype)).log_softmax(dim=1)
        chosen = likely.gather(1, classes.clone()[:, None])
        (gradient,) = torch.autograd.grad(chosen.sum(), x)
    return gradient
