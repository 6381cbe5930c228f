"""The family of guidance: how a model is steered while it samples."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from diffkit.diffusion.objective import Output
from diffkit.diffusion.prediction import Prediction
from diffkit.diffusion.process import Level
from diffkit.spec import Component, FilePath, Many

Predict = Callable[[Tensor, Level, Tensor | None], Output]
"""Maps noisy images ``[N, C, H, W]`` at one level, and their labels, to a network's output. One call of the network."""

Classify = Callable[[Tensor, Level], Tensor]
"""Maps noisy images ``[N, C, H, W]`` at one level to the logits of their classes ``[N, classes]``."""


@dataclass(frozen=True)
class Guided:
    """The model to guide.

    Attributes:
        predict: The network.
        prediction: What the network outputs.
        labels: The labels ``[N]`` that the network sees; None for a network without classes.
        no_class: As many labels that stand for no class, or None.
        guide: A second network, where the guidance asks for one (`Guidance.guide_file`).
        classifier: A classifier of noisy images, where the guidance asks for one (`Guidance.classifier_file`).
        classes: The classes ``[N]`` that the images are to be of, whether or not the network sees them; or None.
    """

    predict: Predict
    prediction: Prediction
    labels: Tensor | None = None
    no_class: Tensor | None = None
    guide: Predict | None = None
    classifier: Classify | None = None
    classes: Tensor | None = None


class Guidance(Component):
    """How a model is steered: by mixing the outputs of a network, or of two, or by a classifier.

    x0 and eps are linear in the output, so that mixing outputs mixes both.
    """

    family = "guidance"
    number_means: ClassVar[tuple[str, str]] = ("cfg", "weight")
    neutral: ClassVar[float] = 1.0
    """The weight that leaves the model as it is."""
    needs_classes: ClassVar[bool] = False
    """Whether the images must be of classes also where the network doesn't see them."""

    weight: float = 1.0
    """The weight w: 1 leaves the model as it is, more exaggerates."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How w changes on the way, as ``n + f (weight - n)``, where n is the weight that leaves the model as it is: f is
    1, or rises from 0 at pure noise to 2 at the image as ``2 (1 - u)`` or ``1 + cos(pi u)``, with u = 2/pi
    arctan(sigma / alpha) (Wang et al. 2024, with u in place of t / T)."""
    interval: Many[Annotated[float, Field(ge=0)]] | None = None
    """The two noise levels sigma / alpha between which the model is guided; elsewhere it is left as it is
    (Kynkäänniemi et al. 2024, eq. 5). Everywhere by default."""

    @model_validator(mode="after")
    def _is_an_interval(self) -> Self:
        if self.interval is not None and (len(self.interval) != 2 or self.interval[0] >= self.interval[1]):
            raise ValueError(f"interval = {list(self.interval)} should be two numbers, the smaller one first")
        return self

    @abstractmethod
    def output(self, model: Guided, x: Tensor, level: Level) -> Output:
        """Return the guided output for noisy images ``[N, C, H, W]``."""

    @abstractmethod
    def evaluations(self, level: Level) -> int:
        """Return how many times a network sees each image at a level."""

    def refuses(self, *, class_conditional: bool, label_dropout: float) -> str | None:
        """Return why a model cannot be guided so, and what to do, or None if it can.

        Args:
            class_conditional: Whether the network sees labels.
            label_dropout: The part of the labels that training hid from it.
        """
        return None

    @property
    def guide_file(self) -> Path | None:
        """The run, checkpoint or weights file of the second network; None without one."""
        return None

    @property
    def classifier_file(self) -> Path | None:
        """The file of the classifier, or the run folder that holds it; None without one."""
        return None

    def weight_at(self, level: Level) -> float:
        """Return w at a level."""
        if self.interval is not None:
            low, high = self.interval
            if not low * level.alpha < level.sigma <= high * level.alpha:
                return self.neutral
        u = 2 / math.pi * math.atan2(level.sigma, level.alpha)
        factor = {"constant": 1.0, "linear": 2 * (1 - u), "cosine": 1 + math.cos(math.pi * u)}[self.schedule]
        return self.neutral + factor * (self.weight - self.neutral)


class ClassifierFree(Guidance):
    """Away from what the network says without the label, by the network itself.

    ``output = output(no class) + w (output(class) - output(no class))`` (Ho & Salimans 2022, eq. 6, whose weight is
    w - 1): w = 0 is unconditional, 1 conditional. One call of the network, of twice the images where both outputs
    are needed. A learned variance is the conditional one.
    """

    kind: Literal["cfg"] = "cfg"
    rescale: float = Field(0.0, ge=0, le=1)
    """How far each image's guided output is scaled back to the standard deviation of the conditional one, which keeps
    large weights from making images too bright or too dark (Lin et al. 2024, eq. 15 and 16). The paper's phi."""

    def output(self, model: Guided, x: Tensor, level: Level) -> Output:
        """Return the guided output.

        Raises:
            ValueError: If there is guidance without labels.
        """
        w = self.weight_at(level)
        if model.labels is None or model.no_class is None:
            if w != 1:
                raise ValueError(f"guidance = {w} needs labels")
            return model.predict(x, level, None)
        if w in (0, 1):
            return model.predict(x, level, model.labels if w == 1 else model.no_class)
        both = model.predict(torch.cat([x, x]), level, torch.cat([model.no_class, model.labels]))
        without, conditional = both.value.chunk(2)
        guided = without + w * (conditional - without)
        variance = None if both.variance is None else both.variance.chunk(2)[1]
        return Output(self._rescaled(guided, conditional), variance)

    def _rescaled(self, guided: Tensor, conditional: Tensor) -> Tensor:
        if self.rescale == 0:
            return guided
        wanted, found = (value.flatten(1).std(dim=1).view(-1, 1, 1, 1) for value in (conditional, guided))
        ratio = torch.where(found > 0, wanted / found, 1.0)
        return torch.lerp(torch.ones_like(ratio), ratio, self.rescale) * guided

    def evaluations(self, level: Level) -> int:
        """Return 2, or 1 where one output is enough."""
        return 1 if self.weight_at(level) in (0, 1) else 2

    def refuses(self, *, class_conditional: bool, label_dropout: float) -> str | None:
        """Refuse a network without classes, or one that always saw the label."""
        if self.weight == 1:
            return None
        if not class_conditional:
            return "guidance needs a class-conditional model: set model.class_conditional = true and train anew"
        if label_dropout == 0:
            return "guidance needs a model that was trained without labels too: set objective.label_dropout = 0.1"
        return None


class Autoguidance(Guidance):
    """Away from what a worse version of the model says.

    ``output = output(guide) + w (output - output(guide))`` (Karras et al. 2024, "Guiding a diffusion model with a bad
    version of itself", eq. 4 with their D_0 the guide). The guide is a network with the same process, prediction and
    images: an earlier checkpoint of the same run is one. Works without classes too. A learned variance is the model's.
    """

    kind: Literal["autoguidance"] = "autoguidance"
    guide: FilePath
    """Run folder, checkpoint folder or weights file of the worse model."""

    def output(self, model: Guided, x: Tensor, level: Level) -> Output:
        """Return the guided output.

        Raises:
            ValueError: If there is no guide.
        """
        w = self.weight_at(level)
        own = model.predict(x, level, model.labels)
        if w == 1:
            return own
        if model.guide is None:
            raise ValueError("autoguidance needs a second network, the guide")
        worse = model.guide(x, level, model.labels).value
        return Output(worse + w * (own.value - worse), own.variance)

    def evaluations(self, level: Level) -> int:
        """Return 2, or 1 where the guide is not asked."""
        return 1 if self.weight_at(level) == 1 else 2

    @property
    def guide_file(self) -> Path:
        """The guide."""
        return self.guide

    @classmethod
    def example_settings(cls) -> dict[str, str]:
        """Return a guide that isn't there: nothing reads it before the network is loaded."""
        return {"guide": "runs/example"}
