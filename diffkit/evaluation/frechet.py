"""The Fréchet distance."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from diffkit.evaluation.base import Metric, Score, check_features


class Frechet(Metric):
    """The Fréchet distance between Gaussians with the features' means and covariances: FID.

    ``|m - m'|² + tr(C + C' - 2 (C C')^(1/2))`` (Heusel et al. 2017, eq. 6; Dowson & Landau 1982). Smaller is better. In
    Inception features this is FID. It is biased: fewer images give a larger distance, so compare equal numbers.

    In float64. The trace of the root is the sum of the singular values of ``R R'ᵀ``, where ``RᵀR = C`` by a QR
    decomposition of the centred features. So no root of a matrix is taken, and fewer images than features are no
    difficulty.
    """

    kind: Literal["fid"] = "fid"

    def scores(self, generated: Tensor, real: Tensor) -> dict[str, Score]:
        """Return `fid`."""
        return {"fid": Score(frechet_distance(generated, real))}


def frechet_distance(generated: Tensor, real: Tensor) -> float:
    """Return the squared Fréchet distance of features ``[N, D]`` and ``[M, D]``.

    Raises:
        ValueError: If one has fewer than two images, or they cannot be compared.
    """
    check_features(generated, real, least=2)
    (mean, root), (other_mean, other_root) = (_moments(features) for features in (generated, real))
    of_root = torch.linalg.svdvals(root @ other_root.T).sum()
    traces = root.square().sum() + other_root.square().sum()
    return float((mean - other_mean).square().sum() + (traces - 2 * of_root).clamp(min=0))


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean ``[D]`` and a root R ``[K, D]`` of the unbiased covariance, ``RᵀR``."""
    features = features.to(torch.float64)
    mean = features.mean(0)
    root = torch.linalg.qr(features - mean, mode="r").R
    return mean, root / (len(features) - 1) ** 0.5
