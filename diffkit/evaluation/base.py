"""The families of metrics and of the features that they compare."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from diffkit.spec import Component


@dataclass(frozen=True)
class Score:
    """One number that a metric found.

    Attributes:
        value: The number.
        error: Its standard error, where the metric knows it.
    """

    value: float
    error: float | None = None


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
