"""The family of spacings: which of a process's times a sampler visits."""

from __future__ import annotations

from abc import abstractmethod

from diffkit.diffusion.process import CLEAN, Level, Process
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

    def levels(self, process: Process, count: int) -> list[Level]:
        """Return the `count` levels to denoise at, and after them the clean end: `count` + 1 in all.

        Raises:
            ValueError: If the process hasn't so many times.
        """
        if not 1 <= count <= process.steps:
            raise ValueError(
                f"the process has {process.steps} times, so 1 to {process.steps} steps can be taken, not {count}"
            )
        return [*(process.level(time) for time in self.times(count, process.steps)), CLEAN]
