"""Weights of multistep methods: a polynomial through past estimates, integrated over the next step.

The step is tau from 0 to 1. Past estimates are at nodes tau_j <= 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """Return the weight of each node: the integral of its Lagrange polynomial.

    Args:
        nodes: Different places, any number k of them.
        moments: The integrals of 1, tau, ..., tau^(k-1), with any kernel.
    """
    found = []
    for own in nodes:
        polynomial = [1.0]  # coefficients of 1, tau, tau², ...
        for other in nodes:
            if other != own:
                scale = own - other
                higher, lower = [0.0, *polynomial], [*polynomial, 0.0]
                polynomial = [(a - other * b) / scale for a, b in zip(higher, lower, strict=True)]
        found.append(sum(c * moment for c, moment in zip(polynomial, moments, strict=True)))
    return found


def plain_moments(count: int) -> list[float]:
    """Return the integrals of tau^k, k < count: ``1 / (k + 1)``."""
    return [1 / (k + 1) for k in range(count)]


def exponential_moments(h: float, count: int) -> list[float]:
    """Return ``G_k = h ∫ exp(-h (1 - tau)) tau^k dtau`` for k < count: integrals of an exponential integrator.

    In terms of the usual phi functions ``G_k = h k! phi_{k+1}(-h)``. h may be negative.
    """
    if abs(h) < 1:  # the recursion would cancel
        return [_series(h, k) for k in range(count)]
    found = [-math.expm1(-h)]
    for k in range(1, count):
        found.append(1 - k / h * found[-1])
    return found


def _series(h: float, k: int) -> float:
    """Sum ``h Σ_j (-h)^j k! / (k + j + 1)!``."""
    term = total = h / (k + 1)
    for j in range(1, 20):  # 1/20! is below the precision of a double
        term *= -h / (k + j + 1)
        total += term
    return total
