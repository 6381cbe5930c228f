"""Time, taken of several things in turn, so that whatever else the machine does hits them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

Action = Callable[[], object]


@dataclass(frozen=True)
class Seconds:
    """How long something took once.

    Attributes:
        wall: By the wall's clock.
        processor: Of the processor's cores together, for this process alone.
    """

    wall: float
    processor: float


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing.

    Attributes:
        median: The median.
        low: The lower quartile: a quarter of the measurements is below.
        high: The upper quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarize at least one value."""
        found = list(values)
        if len(found) == 1:
            return cls(*found * 3)
        low, median, high = statistics.quantiles(found, n=4, method="inclusive")
        return cls(median, low, high)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that it was told to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def timed(action: Action, device: torch.device, times: int = 1) -> Seconds:
    """Return how long an action takes, as the mean of several times in a row."""
    synchronize(device)
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(times):
        action()
    synchronize(device)
    return Seconds((time.perf_counter() - wall) / times, (time.process_time() - processor) / times)


def interleaved(
    actions: Mapping[str, Action],
    rounds: int,
    device: torch.device,
    *,
    least: float = 0.1,
    on_round: Callable[[int], None] | None = None,
) -> dict[str, list[Seconds]]:
    """Time actions in turn, forwards and backwards by turns.

    Each is done twice before, which makes states and caches and shows how often it has to be repeated.

    Args:
        actions: The actions, by name; those to be compared next to each other.
        rounds: How often each is measured.
        device: Where they compute.
        least: Seconds that one measurement takes at least; quicker actions are repeated.
        on_round: Told the number of rounds that are done, from 0 on.

    Returns:
        The measurements of each action, round by round.
    """
    times: dict[str, int] = {}
    for name, action in actions.items():
        action()
        times[name] = max(1, round(least / timed(action, device).wall))
    taken: dict[str, list[Seconds]] = {name: [] for name in actions}
    for number in range(rounds):
        if on_round is not None:
            on_round(number)
        for name in list(actions)[:: -1 if number % 2 else 1]:
            taken[name].append(timed(actions[name], device, times[name]))
    if on_round is not None:
        on_round(rounds)
    return taken
