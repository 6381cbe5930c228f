"""The families of metrics and of the features that they compare."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field

from torch import Tensor

from diffkit.spec import Component


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
    """Compares the features of generated images with those of real ones."""

    family = "metric"

    @abstractmethod
    def scores(self, generated: Tensor, real: Tensor) -> dict[str, Score]:
        """Return what is found, by name.

        Args:
            generated: Features ``[N, D]`` of generated images.
            real: Features ``[M, D]`` of real images, made in the same way.

        Raises:
            ValueError: If there are too few images, or the features' numbers differ.
        """


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
