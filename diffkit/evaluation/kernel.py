"""The kernel distance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from diffkit.evaluation.base import FeatureMetric, Jackknife, Score, check_features

ROWS = 1024
"""So many rows of a kernel's matrix are held at once."""


class Kernel(FeatureMetric):
    """The squared maximum mean discrepancy of a polynomial kernel: KID.

    ``E k(x, x') + E k(y, y') - 2 E k(x, y)`` with ``k(x, y) = (x·y / D + 1)³``, estimated without bias from all pairs
    (Bińkowski et al. 2018, section 4; Gretton et al. 2012, eq. 3). Smaller is better; equal distributions give 0 on
    average, so a value may be negative. In Inception features this is KID. The standard error is the jackknife's, over
    both sets. In float64.
    """

    kind: Literal["kid"] = "kid"

    def scores(self, generated: Tensor, real: Tensor) -> dict[str, Score]:
        """Return `kid`."""
        return {"kid": kernel_distance(generated, real)}


def kernel_distance(generated: Tensor, real: Tensor) -> Score:
    """Return the kernel distance of features ``[N, D]`` and ``[M, D]``, with its standard error.

    Raises:
        ValueError: If one has fewer than three images, or they cannot be compared.
    """
    check_features(generated, real, least=3)
    x, y = (features.to(torch.float64) for features in (generated, real))
    n, m = len(x), len(y)
    # sums of each image's kernels with the other images of its set, and with all of the other set
    own_x, own_y = (_row_sums(features, features) - _kernel_with_itself(features) for features in (x, y))
    x_to_y, y_to_x = _row_sums(x, y), _row_sums(y, x)
    within_x, within_y, across = own_x.sum(), own_y.sum(), x_to_y.sum()

    def distance(of_x: Tensor, of_y: Tensor, between: Tensor, n: int, m: int) -> Tensor:
        return of_x / (n * (n - 1)) + of_y / (m * (m - 1)) - 2 * between / (n * m)

    without_x = distance(within_x - 2 * own_x, within_y, across - x_to_y, n - 1, m)
    without_y = distance(within_x, within_y - 2 * own_y, across - y_to_x, n, m - 1)
    found = Jackknife(distance(within_x, within_y, across, n, m).item(), without_x, without_y)
    return Score(found.value, found.error, found)


def _row_sums(x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([_kernel(rows @ y.T, x.shape[1]).sum(1) for rows in _parts(x)])


def _kernel_with_itself(x: Tensor) -> Tensor:
    return _kernel(x.square().sum(1), x.shape[1])


def _kernel(products: Tensor, dimensions: int) -> Tensor:
    return (products / dimensions + 1) ** 3


def _parts(x: Tensor) -> Iterator[Tensor]:
    yield from torch.split(x, ROWS)
