"""The families of metrics and of the features that they compare."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from torch import Tensor

from diffkit.data.base import Images
from diffkit.spec import Component

if TYPE_CHECKING:
    from diffkit.pipeline import Pipeline


@dataclass(frozen=True)
class Jackknife:
    """An estimate from two sets of images, and what it would be without each single one of them.

    The difference of two such estimates is one too. Where both are of the same real images, and image i of both was
    made from the same noise, most of what is by chance is in both, and leaves the difference: its standard error is
    smaller, often by far, than those of the two would suggest.

    Attributes:
        value: The estimate.
        without_generated: The estimate without each of the generated images: float64 ``[N]``.
        without_real: The estimate without each of the real images: float64 ``[M]``.
    """

    value: float
    without_generated: Tensor
    without_real: Tensor

    @property
    def error(self) -> float:
        """The standard error (Efron & Stein 1981)."""
        return math.sqrt(_jackknife_variance(self.without_generated) + _jackknife_variance(self.without_real))

    def __sub__(self, other: Jackknife) -> Jackknife:
        """Return the difference of two estimates, whose images belong together one by one."""
        return Jackknife(
            self.value - other.value,
            self.without_generated - other.without_generated,
            self.without_real - other.without_real,
        )


def _jackknife_variance(without: Tensor) -> float:
    count = len(without)
    return (count - 1) / count * (without - without.mean()).square().sum().item()


@dataclass(frozen=True)
class Score:
    """One number that a metric found.

    Attributes:
        value: The number.
        error: Its standard error, where the metric knows it.
        jackknife: The estimates that it was found from, where it is the jackknife's.
    """

    value: float
    error: float | None = None
    jackknife: Jackknife | None = field(default=None, compare=False, repr=False)


class Metric(Component):
    """Finds how good a model is: a `FeatureMetric` by its samples, a `ModelMetric` by asking the model itself."""

    family = "metric"


class FeatureMetric(Metric):
    """Compares the features of generated images with those of real ones."""

    @abstractmethod
    def scores(self, generated: Tensor, real: Tensor) -> dict[str, Score]:
        """Return what is found, by name.

        Args:
            generated: Features ``[N, D]`` of generated images.
            real: Features ``[M, D]`` of real images, made in the same way.

        Raises:
            ValueError: If there are too few images, or the features' numbers differ.
        """


class ModelMetric(Metric):
    """Finds a number for each of some of the data set's images, by the model itself; nothing is sampled."""

    @abstractmethod
    def settled(self, pipeline: Pipeline) -> Self:
        """Return the same with what depends on the model filled in.

        Raises:
            UserError: If it cannot be had of this model.
        """

    @abstractmethod
    def images(self, images: Images, seed: int) -> list[int]:
        """Return the numbers of the images to ask for.

        Raises:
            UserError: If there are not so many.
        """

    @abstractmethod
    def calls(self, pipeline: Pipeline) -> int:
        """Return how often the network sees each image."""

    @abstractmethod
    def of_images(
        self, pipeline: Pipeline, images: Images, numbers: list[int], seed: int, on_call: Callable[[int], None]
    ) -> Tensor:
        """Return what is found of images: float64 ``[n]``.

        Args:
            pipeline: The model.
            images: The data set.
            numbers: Which images; few enough to go through the network together.
            seed: What chance draws for an image depends on it and on the image's number only.
            on_call: Told the number of images after each call of the network.
        """

    def scores(self, values: Tensor) -> dict[str, Score]:
        """Return the mean over all images ``[n]``, under the kind's name, with its standard error."""
        error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
        return {self.kind_name(): Score(values.mean().item(), error)}


def check_features(generated: Tensor, real: Tensor, least: int) -> None:
    """Check that two sets of features can be compared.

    Raises:
        ValueError: If one has fewer than `least` images, they differ in size, or a number is not finite.
    """
    for name, features in (("generated", generated), ("real", real)):
        if features.dim() != 2 or len(features) < least:
            raise ValueError(f"the {name} features should be [N, D] with N >= {least}, not {list(features.shape)}")
        if not features.isfinite().all():
            raise ValueError(f"the {name} features are not all finite")
    if generated.shape[1] != real.shape[1]:
        raise ValueError(f"features of {generated.shape[1]} and of {real.shape[1]} numbers cannot be compared")
