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
        exact: Returns the level with exactly a given lambda, which a process of numbered times has between two of
            them; by default the nearest one.
        at_part: Returns the level at a part of the time from one level of the list to another; by default it is a part
            of the noise-to-signal ratio.
    """

    def __init__(
        self,
        levels: Iterable[Level],
        nearest: Callable[[float], Level],
        start_scale: float | None = None,
        *,
        exact: Callable[[float], Level] | None = None,
        at_part: Callable[[Level, Level, float], Level] | None = None,
    ) -> None:
        super().__init__(levels)
        self.nearest, self.exact = nearest, exact or nearest
        self.start_scale = full_scale(self[0]) if start_scale is None else start_scale
        self._at_part = at_part or self._at_part_of_ratio

    @classmethod
    def of(cls, levels: Sequence[Level]) -> Levels:
        """Return levels as they are; those of a plain list know of no others."""
        if isinstance(levels, cls):
            return levels
        known = {half_log_snr(level): level for level in levels if level.alpha > 0 and level.sigma > 0}
        return cls(levels, lambda wanted: known[min(known, key=lambda has: abs(has - wanted))])

    def last(self, steps: int) -> Levels:
        """Return the levels of the last so many steps, which start with the usual noise."""
        return Levels(self[-1 - steps :], self.nearest, exact=self.exact, at_part=self._at_part)

    def middle(self, t: Level, s: Level, *, exact: bool = False) -> Level | None:
        """Return the process's level nearest to the middle, in lambda, of t and the less noisy s.

        None if the process has no level strictly between the two, or if one of them is pure noise or clean:
        then there is no middle.

        Args:
            t: The noisier level.
            s: The less noisy one.
            exact: Whether the level may be between two numbered times.
        """
        if t.alpha == 0 or s.sigma == 0:
            return None
        start, end = half_log_snr(t), half_log_snr(s)
        found = (self.exact if exact else self.nearest)((start + end) / 2)
        return found if start < half_log_snr(found) < end else None

    def at_part(self, t: Level, s: Level, part: float) -> Level:
        """Return the process's level at a part of the time from t to s: t at 0, s at 1. Numbered times round down.

        Args:
            t: A level of this list, not pure noise.
            s: A less noisy one.
            part: In [0, 1].
        """
        return self._at_part(t, s, part) if 0 < part < 1 else (t, s)[round(part)]

    def _at_part_of_ratio(self, t: Level, s: Level, part: float) -> Level:
        start, end = t.sigma / t.alpha, s.sigma / s.alpha
        return self.nearest(-math.log(start + part * (end - start)))

    def noisier(self, t: Level, factor: float) -> Level:
        """Return the process's level nearest to `factor` times t's noise-to-signal ratio; t if that is not noisier."""
        if t.alpha == 0 or factor <= 1:
            return t
        found = self.nearest(half_log_snr(t) - math.log(factor))
        return found if half_log_snr(found) < half_log_snr(t) else t
