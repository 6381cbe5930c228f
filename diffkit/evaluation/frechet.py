"""The Fréchet distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffkit.evaluation.base import FeatureMetric, Jackknife, Score, check_features


class Frechet(FeatureMetric):
    """The Fréchet distance between Gaussians with the features' means and covariances: FID.

    ``|m - m'|² + tr(C + C' - 2 (C C')^(1/2))`` (Heusel et al. 2017, eq. 6; Dowson & Landau 1982). Smaller is better. In
    Inception features this is FID. It is biased: fewer images give a larger distance, so compare equal numbers.

    In float64. The trace of the root is the sum of the singular values of ``R R'ᵀ``, where ``RᵀR = C`` by a QR
    decomposition of the centred features. So no root of a matrix is taken, and fewer images than features are no
    difficulty.

    The standard error is the infinitesimal jackknife's, over both sets: it follows from how much each image pulls at
    the distance. It says nothing of the bias.
    """

    kind: Literal["fid"] = "fid"

    def scores(self, generated: Tensor, real: Tensor) -> dict[str, Score]:
        """Return `fid`."""
        found = frechet_jackknife(generated, real)
        return {"fid": Score(found.value, found.error, found)}


def frechet_distance(generated: Tensor, real: Tensor) -> float:
    """Return the squared Fréchet distance of features ``[N, D]`` and ``[M, D]``.

    Raises:
        ValueError: If one has fewer than two images, or they cannot be compared.
    """
    return frechet_jackknife(generated, real).value


def frechet_jackknife(generated: Tensor, real: Tensor) -> Jackknife:
    """Return the squared Fréchet distance of features ``[N, D]`` and ``[M, D]``, and that without each image.

    The latter to first order: ``f - I_i / (n - 1)``, with the influence I_i of image i, the derivative of the distance
    by its weight among the n of its set (Jaeckel 1972; Efron 1982, chapter 6). The derivative of ``2 tr (C C')^(1/2)``
    by C is the matrix T of the optimal transport from one Gaussian to the other, so that

    ``I_i = 2 (m - m')·(x_i - m) + (x_i - m)ᵀ (1 - T) (x_i - m) - tr C + tr (C C')^(1/2)``.

    with n / (n - 1) before the product, as C is the unbiased covariance. T is never formed: with ``R R'ᵀ = U S Vᵀ`` and
    ``x_i - m = Rᵀ u_i``, its term is ``u_iᵀ U S Uᵀ u_i``.

    Raises:
        ValueError: If one has fewer than two images, or they cannot be compared.
    """
    check_features(generated, real, least=2)
    x, y = _Gaussian.of(generated), _Gaussian.of(real)
    left, singular, right = torch.linalg.svd(x.root @ y.root.T, full_matrices=False)
    apart = x.mean - y.mean
    traces = x.root.square().sum() + y.root.square().sum()
    value = float(apart.square().sum() + (traces - 2 * singular.sum()).clamp(min=0))
    of_x, of_y = x.influences(apart, left, singular), y.influences(-apart, right.T, singular)
    return Jackknife(value, value - of_x / (len(of_x) - 1), value - of_y / (len(of_y) - 1))


@dataclass(frozen=True)
class _Gaussian:
    """The Gaussian of some features.

    Attributes:
        mean: The mean ``[D]``.
        root: A root R ``[K, D]`` of the unbiased covariance, ``RᵀR``.
        whitened: ``[N, K]``: image i, less the mean, is ``Rᵀ whitened[i]``.
    """

    mean: Tensor
    root: Tensor
    whitened: Tensor

    @classmethod
    def of(cls, features: Tensor) -> _Gaussian:
        features = features.to(torch.float64)
        mean = features.mean(0)
        basis, root = torch.linalg.qr(features - mean)
        scale = (len(features) - 1) ** 0.5
        return cls(mean, root / scale, basis * scale)

    def influences(self, apart: Tensor, directions: Tensor, singular: Tensor) -> Tensor:
        """Return how much each image pulls at the distance ``[N]``, for the distance of the means from here, and half
        of a singular value decomposition of the product of both roots."""
        unbiased = len(self.whitened) / (len(self.whitened) - 1)
        centred = self.whitened @ self.root
        spread = unbiased * centred.square().sum(1) - self.root.square().sum()
        carried = unbiased * (self.whitened @ directions).square() @ singular - singular.sum()
        return 2 * centred @ apart + spread - carried
