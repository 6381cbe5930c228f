"""Spacings in strides of time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from pydantic import Field

from diffkit.diffusion.process import ContinuousProcess, DiscreteProcess, Process
from diffkit.diffusion.spacing import Spacing, distinct, part_times


class StrideSpacing(Spacing):
    """What spacings share that need to know no more of a process than its number of times.

    On a continuous process they divide the way, exactly: equal parts are equal times for `flow`, and equal factors of
    sigma for `edm`.
    """

    @abstractmethod
    def times(self, count: int, total: int) -> list[int]:
        """Return exactly `count` different times of 0..total-1, strictly falling.

        Args:
            count: The number of steps, from 1 to `total`.
            total: The number T of times of the process.
        """

    @abstractmethod
    def parts(self, count: int, least: float) -> list[float]:
        """Return exactly `count` different parts of the way, strictly falling from 1 at most.

        Args:
            count: The number of steps, at least 1.
            least: The part at which the process would like the last step to start, in [0, 1).
        """

    def visited(self, process: Process, count: int) -> Sequence[float]:
        """Return the times, falling."""
        if isinstance(process, DiscreteProcess):
            return self.times(count, process.steps)
        return part_times(process, self.parts(count, _least(process)))


class Divided(StrideSpacing):
    """A spacing that may leave out the last of its times."""

    without_last: bool = False
    """Divide into one time more, and leave out the last: as other libraries space their multistep solvers, for which
    that one is where the walk ends."""

    @abstractmethod
    def divided_times(self, count: int, total: int) -> list[int]:
        """Return `count` times as `times` does, the last among them."""

    @abstractmethod
    def divided_parts(self, count: int, least: float) -> list[float]:
        """Return `count` parts as `parts` does, the last among them."""

    def refuses(self, process: Process, count: int) -> str | None:
        """Return that no time is left to leave out."""
        if self.without_last and isinstance(process, DiscreteProcess) and count == process.steps:
            return f"without_last = true leaves out one of {count} times, so at most {count - 1} steps can be taken"
        return super().refuses(process, count)

    def times(self, count: int, total: int) -> list[int]:
        """Return the times, falling."""
        return self.divided_times(count + self.without_last, total)[:count]

    def parts(self, count: int, least: float) -> list[float]:
        """Return the parts, falling."""
        return self.divided_parts(count + self.without_last, least)[:count]


class Leading(Divided):
    """Equal strides from the clean end: the noisiest times are left out.

    ``t_i = i floor(T / n) + offset`` (Song et al. 2021, appendix D.2, "linear"; Lin et al. 2023, table 2).
    """

    kind: Literal["leading"] = "leading"
    offset: int = Field(0, ge=0)
    """Moves all times up, as far as there is room for below T. For a process of numbered times."""

    def refuses(self, process: Process, count: int) -> str | None:
        """Return that an offset counts times, where there are none to count."""
        if self.offset and not isinstance(process, DiscreteProcess):
            return f"offset = {self.offset} counts numbered times, which the process '{process.kind}' has not: set 0"
        return super().refuses(process, count)

    def divided_times(self, count: int, total: int) -> list[int]:
        """Return the times, falling."""
        stride = total // count
        room = total - 1 - (count - 1) * stride
        return [i * stride + min(self.offset, room) for i in reversed(range(count))]

    def divided_parts(self, count: int, least: float) -> list[float]:
        """Return the parts ``least + (1 - least) i / n``, falling."""
        return [least + (1 - least) * i / count for i in reversed(range(count))]


class Trailing(StrideSpacing):
    """Equal strides from the noisy end: the last time is always the first that is visited.

    ``t_i = round(i T / n) - 1`` for i = n..1 (Lin et al. 2023, table 2).
    """

    kind: Literal["trailing"] = "trailing"

    def times(self, count: int, total: int) -> list[int]:
        """Return the times, falling."""
        return [round(Fraction(i * total, count)) - 1 for i in range(count, 0, -1)]

    def parts(self, count: int, least: float) -> list[float]:
        """Return the parts ``i / n``, falling."""
        return [i / count for i in range(count, 0, -1)]


class Linspace(Divided):
    """Equal strides that include both the first and the last time.

    ``t_i = round(i (T - 1) / (n - 1))`` (Nichol & Dhariwal 2021, section 4; Lin et al. 2023, table 2). A single
    step starts at T - 1.
    """

    kind: Literal["linspace"] = "linspace"

    def divided_times(self, count: int, total: int) -> list[int]:
        """Return the times, falling."""
        if count == 1:
            return [total - 1]
        return [round(Fraction(i * (total - 1), count - 1)) for i in reversed(range(count))]

    def divided_parts(self, count: int, least: float) -> list[float]:
        """Return the parts ``least + (1 - least) i / (n - 1)``, falling."""
        return [least + (1 - least) * u for u in _evenly(count)]


class QuadraticSpacing(StrideSpacing):
    """Strides that grow with the noise.

    ``t_i = floor(c i²)`` with c such that the last is T - 1 (Song et al. 2021, appendix D.2). Times that would fall
    together near the clean end move up to the next free one.
    """

    kind: Literal["quadratic"] = "quadratic"

    def times(self, count: int, total: int) -> list[int]:
        """Return the times, falling."""
        if count == 1:
            return [total - 1]
        times: list[int] = []
        for i in range(count):
            free = times[-1] + 1 if times else 0
            times.append(max(free, (total - 1) * i * i // (count - 1) ** 2))
        return times[::-1]

    def parts(self, count: int, least: float) -> list[float]:
        """Return the parts ``least + (1 - least) (i / (n - 1))²``, falling."""
        return [least + (1 - least) * u**2 for u in _evenly(count)]


class BetaQuantile(StrideSpacing):
    """Most steps near both ends, as many as a beta distribution says.

    The times are the quantiles of Beta(alpha, beta) at ``i / (n - 1)``, from the first to the last time (Lee et al.
    2024). Both parameters below 1 crowd the ends; 1 and 1 are `linspace`.
    """

    kind: Literal["beta_quantile"] = "beta_quantile"
    alpha: float = Field(0.6, ge=0.1, le=10)
    """The smaller, the more steps are near the image."""
    beta: float = Field(0.6, ge=0.1, le=10)
    """The smaller, the more steps are near the noise."""

    def times(self, count: int, total: int) -> list[int]:
        """Return the times, falling."""
        # a time halfway between two must not fall to one of them by an error in the last digit
        return distinct([round((total - 1) * u, 9) for u in self._quantiles(count)], total)

    def parts(self, count: int, least: float) -> list[float]:
        """Return the quantiles between least and 1, falling."""
        return [least + (1 - least) * u for u in self._quantiles(count)]

    def _quantiles(self, count: int) -> list[float]:
        from scipy.special import betaincinv  # as slow to import as it is seldom needed

        return [float(betaincinv(self.alpha, self.beta, u)) for u in _evenly(count)]


def _least(process: Process) -> float:
    return process.least_part if isinstance(process, ContinuousProcess) else 0.0


def _evenly(count: int) -> list[float]:
    """Return numbers evenly from 1 to 0, or 1 alone."""
    return [i / (count - 1) for i in reversed(range(count))] if count > 1 else [1.0]
