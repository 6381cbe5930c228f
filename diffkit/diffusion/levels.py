"""The levels that a sampler walks, and those in between that the process has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from diffkit.diffusion.process import Level, half_log_snr


def full_scale(level: Level) -> float:
    """Return ``sqrt(alpha² + sigma²)``, the standard deviation of x_t for data of variance 1.

    It is 1 for every variance-preserving process, at whatever level the walk starts (Ho et al. 2020, algorithm 2), and
    nearly sigma for one whose noise outgrows the images (alpha = 1, sigma >> 1).
    """
    return math.hypot(level.alpha, level.sigma)


class Levels(list[Level]):
    """The levels to visit, strictly falling, the last of them the clean end, or one of little noise.

    A list like any other. Besides, it finds levels to evaluate the network at that are not in it.

    Args:
        levels: The levels to visit.
        nearest: Returns the level of the process whose lambda = log(alpha / sigma) is nearest to a given one.
        start_scale: The standard deviation of what a walk starts with; by default `full_scale` of the first level.
    """

    def __init__(
        self, levels: Iterable[Level], nearest: Callable[[float], Level], start_scale: float | None = None
    ) -> None:
        super().__init__(levels)
        self.nearest = nearest
        self.start_scale = full_scale(self[0]) if start_scale is None else start_scale

    @classmethod
    def of(cls, levels: Sequence[Level]) -> Levels:
        """Return levels as they are; those of a plain list know of no others."""
        if isinstance(levels, cls):
            return levels
        known = {half_log_snr(level): level for level in levels if level.alpha > 0 and level.sigma > 0}
        return cls(levels, lambda wanted: known[min(known, key=lambda has: abs(has - wanted))])

    def middle(self, t: Level, s: Level) -> Level | None:
        """Return the process's level nearest to the middle, in lambda, of t and the less noisy s.

        None if the process has no level strictly between the two, or if one of them is pure noise or clean:
        then there is no middle.
        """
        if t.alpha == 0 or s.sigma == 0:
            return None
        start, end = half_log_snr(t), half_log_snr(s)
        found = self.nearest((start + end) / 2)
        return found if start < half_log_snr(found) < end else None

    def noisier(self, t: Level, factor: float) -> Level:
        """Return the process's level nearest to `factor` times t's noise-to-signal ratio; t if that is not noisier."""
        if t.alpha == 0 or factor <= 1:
            return t
        found = self.nearest(half_log_snr(t) - math.log(factor))
        return found if half_log_snr(found) < half_log_snr(t) else t
