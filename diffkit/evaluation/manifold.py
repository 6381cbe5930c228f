"""Metrics of nearest neighbours: how many generated images are like real ones, and how much of these they cover."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from diffkit.evaluation.base import FeatureMetric, Score, check_features

ROWS = 1024
"""So many rows of distances are held at once."""


class PrecisionRecall(FeatureMetric):
    """Precision: the part of the generated images that lie among the real ones. Recall: the part the other way round.

    An image lies among others if it is in the ball around at least one of them, whose radius is the distance to
    that one's k-th nearest neighbour in its own set (Kynkäänniemi et al. 2019, eq. 1 and 2). Both are in [0, 1], and
    larger is better.
    """

    kind: Literal["precision_recall"] = "precision_recall"
    neighbours: int = Field(3, ge=1)
    """Which neighbour's distance is the radius: the paper's k."""

    def scores(self, generated: Tensor, real: Tensor) -> dict[str, Score]:
        """Return `precision` and `recall`."""
        check_features(generated, real, least=self.neighbours + 1)
        precision = balls_around(generated, real, radii(real, self.neighbours)) > 0
        recall = balls_around(real, generated, radii(generated, self.neighbours)) > 0
        return {"precision": _part(precision), "recall": _part(recall)}


class DensityCoverage(FeatureMetric):
    """Density: how many real images' balls a generated one is in. Coverage: the part of the real balls with one inside.

    ``density = 1 / (k N) Σ_j Σ_i [y_j in ball_i]``, ``coverage = 1 / M Σ_i [some y_j in ball_i]``, with balls around
    the real images up to their k-th nearest real neighbour (Naeem et al. 2020, section 3). Equal distributions give a
    density of 1 on average; larger is better. Outliers count for less than in precision and recall.
    """

    kind: Literal["density_coverage"] = "density_coverage"
    neighbours: int = Field(5, ge=1)
    """Which neighbour's distance is the radius: the paper's k."""

    def scores(self, generated: Tensor, real: Tensor) -> dict[str, Score]:
        """Return `density` and `coverage`."""
        check_features(generated, real, least=self.neighbours + 1)
        radius = radii(real, self.neighbours)
        inside = balls_around(generated, real, radius).to(torch.float64)
        nearest = torch.cat([distances(rows, generated).amin(dim=1) for rows in torch.split(real, ROWS)])
        error = inside.std().item() / self.neighbours / len(inside) ** 0.5
        return {"density": Score(inside.mean().item() / self.neighbours, error), "coverage": _part(nearest <= radius)}


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Return the distances ``[N, M]`` of points ``[N, D]`` and ``[M, D]``, by differences: exact for near ones too."""
    return torch.cdist(x.to(torch.float64), y.to(torch.float64), compute_mode="donot_use_mm_for_euclid_dist")


def radii(points: Tensor, neighbours: int) -> Tensor:
    """Return each point's distance to its k-th nearest neighbour among the others: ``[N]``."""
    nearest = [distances(rows, points).kthvalue(neighbours + 1, dim=1).values for rows in torch.split(points, ROWS)]
    return torch.cat(nearest)  # the nearest of all is the point itself


def balls_around(points: Tensor, centres: Tensor, radius: Tensor) -> Tensor:
    """Return how many of the balls around some centres each point is in: ``[N]``."""
    return torch.cat([(distances(rows, centres) <= radius).sum(1) for rows in torch.split(points, ROWS)])


def _part(found: Tensor) -> Score:
    """Return the part that is true, with the standard error of a binomial number."""
    part = found.to(torch.float64).mean().item()
    return Score(part, (part * (1 - part) / len(found)) ** 0.5)
