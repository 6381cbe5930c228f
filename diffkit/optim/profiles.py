"""Averages whose weights count by a power function of their step, and how others are combined of them afterwards.

In the average after step t, the weights of step s count by the density ``p(s) = (gamma + 1) s^gamma / t^(gamma + 1)``
on [0, t] (Karras et al. 2024, equation 1): its profile. An average's length is the standard deviation of that density,
as a part of t: sigma_rel in the paper. All is in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SHORTEST = 1e-4
"""Length of hardly more than the last step, even in long runs."""

LONGEST = math.sqrt(1 / 12)
"""Length of the plain mean of all weights, gamma = 0: in longer ones, early weights would count more than late ones."""

ROUNDING = 1e-5
"""About what rounding to float32 leaves uncertain in an average, as a part of its change over a run. Coefficients are
kept from growing to where that would outweigh what they gain."""


def exponent_of(length: float) -> float:
    """Return gamma of an average of a relative standard deviation (appendix C.1, equation 126).

    It is the largest root of ``(gamma + 1) / ((gamma + 2)^2 (gamma + 3)) = length^2``, a cubic.

    Args:
        length: The relative standard deviation, from `SHORTEST` to `LONGEST`.

    Raises:
        ValueError: If it is not.
    """
    if not SHORTEST <= length <= LONGEST:
        raise ValueError(f"a length is from {SHORTEST} to {LONGEST:.4f}, which is the plain mean of all weights")
    inverse = length**-2
    return max(0.0, float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max()))


def length_of(exponent: float) -> float:
    """Return the relative standard deviation of the profile of an exponent gamma >= 0."""
    return math.sqrt((exponent + 1) / (exponent + 3)) / (exponent + 2)


def decay_after(exponent: float, step: int) -> float:
    """Return the decay after a step, counted from 1, that gives the profile of an exponent (equation 2)."""
    return math.pow(1 - 1 / step, exponent + 1)


@dataclass(frozen=True)
class Profile:
    """How much the weights of each step count in an average.

    Attributes:
        exponent: gamma of the power function.
        step: The step after which it is, counted from 1.
    """

    exponent: float
    step: int

    @classmethod
    def of(cls, length: float, step: int) -> Profile:
        """Return the profile of an average of a length."""
        return cls(exponent_of(length), step)


@dataclass(frozen=True)
class Combination:
    """An average that is combined of others.

    Attributes:
        coefficients: What each of the others counts; their sum is 1.
        error: How far its profile is from what it should be: the norm of the difference, as a part of its norm.
    """

    coefficients: tuple[float, ...]
    error: float


def inner_products(ones: Sequence[Profile], others: Sequence[Profile]) -> Array:
    """Return the integral of the product of each two profiles, ``[len(ones), len(others)]``.

    It is ``(g + 1) (h + 1) / ((g + h + 1) b) (a / b)^h``, where h is the exponent of the later one, at step b, and g
    that of the earlier one, at step a (appendix C.3).
    """
    g, a = (np.array([getattr(one, name) for one in ones], dtype=np.float64)[:, None] for name in ("exponent", "step"))
    h, b = (np.array([getattr(other, name) for other in others], dtype=np.float64) for name in ("exponent", "step"))
    of_later = np.where(a > b, g, h)
    latest = np.maximum(a, b)
    products: Array = (g + 1) * (h + 1) / ((g + h + 1) * latest) * (np.minimum(a, b) / latest) ** of_later
    return products


def combine(kept: Sequence[Profile], wanted: Sequence[Profile]) -> list[Combination]:
    """Return for each wanted profile the combination of those kept that is nearest to it: least squares.

    As in appendix C.3 of the paper, but for two things: the coefficients' sum is 1, so that weights which hardly change
    are kept as they are, and coefficients are kept from growing without gain (`ROUNDING`). A profile that is kept
    itself is taken as it is.
    """
    norms = np.sqrt([inner_products([one], [one]).item() for one in kept])
    gram = inner_products(kept, kept) / np.outer(norms, norms)
    towards = inner_products(kept, wanted) / norms[:, None]
    squares = np.array([inner_products([one], [one]).item() for one in wanted])

    count = len(kept)
    system = np.zeros((count + 1, count + 1))  # with the multiplier of the sum
    system[:count, :count] = gram + ROUNDING**2 * np.eye(count)
    system[:count, count] = system[count, :count] = norms.max() / norms
    sides = np.vstack([towards, np.full((1, len(wanted)), norms.max())])
    found = np.linalg.solve(system, sides)[:count]
    errors = np.einsum("ij,ik,kj->j", found, gram, found) - 2 * (found * towards).sum(0) + squares
    errors = np.sqrt(np.maximum(errors, 0) / squares)
    for column, profile in enumerate(wanted):
        if profile in kept:
            found[:, column], errors[column] = norms * np.array([one == profile for one in kept]), 0
    coefficients = found / norms[:, None]
    return [Combination(tuple(coefficients[:, j].tolist()), float(errors[j])) for j in range(len(wanted))]


def reachable(kept: Sequence[Profile], step: int, error: float) -> list[tuple[float, float]]:
    """Return the ranges of lengths after a step that can be combined of others with no more than an error.

    They are found on a grid, and are as exact as it is fine: 2 %.
    """
    grid = np.geomspace(1e-3, LONGEST, 300)
    grid[-1] = LONGEST
    good = [one.error <= error for one in combine(kept, [Profile.of(length, step) for length in grid.tolist()])]
    ranges: list[tuple[float, float]] = []
    for number, length in enumerate(grid.tolist()):
        if good[number]:
            start = ranges.pop()[0] if number > 0 and good[number - 1] else length
            ranges.append((start, length))
    return ranges
