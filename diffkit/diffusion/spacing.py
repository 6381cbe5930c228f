"""The family of spacings: which of a process's times a sampler visits."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch

from diffkit.diffusion.levels import Levels
from diffkit.diffusion.process import CLEAN, ContinuousProcess, DiscreteProcess, Level, Process
from diffkit.spec import Component


class Spacing(Component):
    """Which times of its process a sampler of n steps visits."""

    family = "spacing"

    start: Literal["full", "noise"] = "full"
    """What the walk starts with: noise of the variance alpha² + sigma² of its first level, as if the image were noise
    too, or of sigma² alone."""
    end: Literal["clean", "least"] = "clean"
    """Where the walk ends: at the image itself, or at the process's least noise, which stays in the image (as where
    other libraries set the last sigma to the smallest, or the last alpha not to one)."""

    @abstractmethod
    def visited(self, process: Process, count: int) -> Sequence[float]:
        """Return exactly `count` different times of the process, strictly falling.

        Args:
            process: The process, which `refuses` has nothing against.
            count: The number of steps, at least 1; at most the number of a discrete process's times.
        """

    def refuses(self, process: Process, count: int) -> str | None:
        """Return why so many steps cannot be taken on a process, and what to do, or None if they can."""
        if isinstance(process, DiscreteProcess) and count > process.steps:
            return f"the process has {process.steps} times, so at most {process.steps} steps can be taken"
        if self.end == "least" and self.visited(process, count)[-1] <= _least_time(process):
            return 'the last step starts at the least noise already, so it cannot end there: set end = "clean"'
        return None

    def at(self, process: Process, times: Sequence[float]) -> list[Level]:
        """Return the levels of the times that are visited."""
        return [process.level(time) for time in times]

    def levels(self, process: Process, count: int) -> Levels:
        """Return the `count` levels to denoise at, and after them the end: `count` + 1 in all.

        Raises:
            ValueError: If so many steps cannot be taken on this process.
        """
        if count < 1:
            raise ValueError(f"at least 1 step must be taken, not {count}")
        if reason := self.refuses(process, count):
            raise ValueError(reason)
        times = self.visited(process, count)
        visited = self.at(process, times)
        end = CLEAN if self.end == "clean" else process.level(_least_time(process))
        scale = visited[0].sigma if self.start == "noise" else None
        time_of = dict(zip(visited, times, strict=True))
        time_of[end] = _clean_time(process) if end is CLEAN else _least_time(process)

        def at_part(t: Level, s: Level, part: float) -> Level:
            time = time_of[t] + part * (time_of[s] - time_of[t])
            if isinstance(process, DiscreteProcess):
                time = math.floor(time + 1e-9)  # a whole one must not fall by an error in the last digit
            return CLEAN if time <= _clean_time(process) else process.level(time)

        return Levels([*visited, end], process.nearest, scale, exact=process.exact, at_part=at_part)


def _least_time(process: Process) -> float:
    """Return the time of the least noise that samplers visit."""
    return part_times(process, [process.least_part])[0] if isinstance(process, ContinuousProcess) else 0.0


def _clean_time(process: Process) -> float:
    """Return the time that stands for the clean end."""
    return -1.0 if isinstance(process, DiscreteProcess) else 0.0


def distinct(wanted: Sequence[float], total: int) -> list[int]:
    """Round falling real times to different whole ones of 0..total-1.

    Times that would fall together near the clean end move up to the next free one, and none beyond what leaves room
    for those above it.
    """
    times: list[int] = []
    for time in reversed(wanted):
        times.append(max(round(time), times[-1] + 1 if times else 0))
    room = total - len(times)
    return [min(time, room + i) for i, time in enumerate(times)][::-1]


def part_times(process: Process, parts: Sequence[float]) -> list[float]:
    """Return a continuous process's times at parts of its way."""
    times: list[float] = process.at(torch.tensor(parts, dtype=torch.float64)).tolist()
    return times
