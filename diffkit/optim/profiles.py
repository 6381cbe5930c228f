"""Averages whose weights count by a power function of their step, and how others are combined of them afterwards.

In the average after step t, the weights of step s count by the density ``p(s) = (gamma + 1) s^gamma / t^(gamma + 1)``
on [0, t] (Karras et al. 2024, equation 1): its profile. An average's length is the standard deviation of that density,
as a part of t: sigma_rel in the paper. All is in float64.
"""

from __future__ import annotations

import math

import numpy as np

LONGEST = math.sqrt(1 / 12)
"""Length of the plain mean of all weights, gamma = 0: in longer ones, early weights would count more than late ones."""


def exponent_of(length: float) -> float:
    """Return gamma of an average of a relative standard deviation (appendix C.1, equation 126).

    It is the largest root of ``(gamma + 1) / ((gamma + 2)^2 (gamma + 3)) = length^2``, a cubic.

    Args:
        length: The relative standard deviation, above 0 and at most `LONGEST`.

    Raises:
        ValueError: If it is not.
    """
    if not 0 < length <= LONGEST:
        raise ValueError(f"a length is above 0 and at most {LONGEST:.4f}, the plain mean of all weights, not {length}")
    inverse = length**-2
    return max(0.0, float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max()))


def length_of(exponent: float) -> float:
    """Return the relative standard deviation of the profile of an exponent gamma >= 0."""
    return math.sqrt((exponent + 1) / (exponent + 3)) / (exponent + 2)


def decay_after(exponent: float, step: int) -> float:
    """Return the decay after a step, counted from 1, that gives the profile of an exponent (equation 2)."""
    return math.pow(1 - 1 / step, exponent + 1)
