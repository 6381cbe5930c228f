"""The family of spacings: which of a process's times a sampler visits."""

from __future__ import annotations

from abc import abstractmethod
from fractions import Fraction
from typing import Literal

from pydantic import Field

from diffkit.diffusion.levels import Levels
from diffkit.diffusion.process import CLEAN, Process
from diffkit.spec import Component


class Spacing(Component):
    """Which times a sampler of n steps visits, of the process's T."""

    family = "spacing"

    @abstractmethod
    def times(self, count: int, total: int) -> list[int]:
        """Return exactly `count` different times of 0..total-1, strictly falling.

        Args:
            count: The number of steps, from 1 to `total`.
            total: The number T of times of the process.
        """

    def levels(self, process: Process, count: int) -> Levels:
        """Return the `count` levels to denoise at, and after them the clean end: `count` + 1 in all.

        Raises:
            ValueError: If the process hasn't so many times.
        """
        if not 1 <= count <= process.steps:
            raise ValueError(
                f"the process has {process.steps} times, so 1 to {process.steps} steps can be taken, not {count}"
            )
        return Levels([*(process.level(time) for time in self.times(count, process.steps)), CLEAN], process.nearest)


class Leading(Spacing):
    """Equal strides from the clean end: the noisiest times are left out.

    ``t_i = i floor(T / n) + offset`` (Song et al. 2021, appendix D.2, "linear"; Lin et al. 2023, table 1).
    """

    kind: Literal["leading"] = "leading"
    offset: int = Field(0, ge=0)
    """Moves all times up, as far as there is room for below T."""

    def times(self, count: int, total: int) -> list[int]:
        """Return the times, falling."""
        stride = total // count
        room = total - 1 - (count - 1) * stride
        return [i * stride + min(self.offset, room) for i in reversed(range(count))]


class Trailing(Spacing):
    """Equal strides from the noisy end: the last time is always the first that is visited.

    ``t_i = round(i T / n) - 1`` for i = n..1 (Lin et al. 2023, table 1).
    """

    kind: Literal["trailing"] = "trailing"

    def times(self, count: int, total: int) -> list[int]:
        """Return the times, falling."""
        return [round(Fraction(i * total, count)) - 1 for i in range(count, 0, -1)]


class Linspace(Spacing):
    """Equal strides that include both the first and the last time.

    ``t_i = round(i (T - 1) / (n - 1))`` (Nichol & Dhariwal 2021, section 4; Lin et al. 2023, table 1). A single
    step starts at T - 1.
    """

    kind: Literal["linspace"] = "linspace"

    def times(self, count: int, total: int) -> list[int]:
        """Return the times, falling."""
        if count == 1:
            return [total - 1]
        return [round(Fraction(i * (total - 1), count - 1)) for i in reversed(range(count))]


class QuadraticSpacing(Spacing):
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
