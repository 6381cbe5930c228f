"""What is known of run folders from their files: how far each is, how fast, and whether it is being trained now."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffkit.bounds import open_regular, parse_json, parse_toml, read_bytes
from diffkit.storage.checkpoint import LARGEST_STEP, list_checkpoints
from diffkit.storage.runs import CHECKPOINTS, METRICS, RECIPE, RUNS, is_locked

TAIL = 2**16
"""So many bytes at the end of a log hold its last line."""

SLOWEST = 1e-9
"""Images per second. What is slower than one in decades is something else."""

State = Literal["training", "done", "stopped", "damaged"]


@dataclass(frozen=True)
class Overview:
    """A run, as its files tell.

    Attributes:
        folder: The run folder.
        state: ``training`` while a process holds the folder, ``done`` once its last checkpoint is that of the last
            step, ``stopped`` in between, and ``damaged`` if its recipe cannot be read.
        step: Number of optimizer steps taken, as of the last log event or checkpoint.
        total_steps: Number of steps of the whole run; None if unknown.
        loss: The loss of the last log event.
        images_per_second: The speed at the last log event.
        seconds_left: How long the rest takes at that speed; None unless the run is being trained.
        checkpoint: The newest checkpoint's folder; not verified.
    """

    folder: Path
    state: State
    step: int
    total_steps: int | None
    loss: float | None
    images_per_second: float | None
    seconds_left: float | None
    checkpoint: Path | None

    def to_json(self) -> dict[str, Any]:
        """Return all of it as what JSON can hold."""
        paths = {"folder": str(self.folder), "checkpoint": None if self.checkpoint is None else str(self.checkpoint)}
        return {**vars(self), **paths}


def overviews(root: Path = RUNS) -> list[Overview]:
    """Return what is known of all runs in a folder, the one that was started last at the end."""
    recipes = sorted(root.glob(f"*/{RECIPE}"), key=lambda file: (file.stat().st_mtime_ns, file))
    return [overview(file.parent) for file in recipes]


def overview(folder: Path) -> Overview:
    """Return what is known of a run."""
    train = _train_table(folder / RECIPE)
    total, batch = (train.get(key) for key in ("steps", "batch_size"))
    last = _last_event(folder / METRICS)
    checkpoint = next(reversed(list_checkpoints(folder / CHECKPOINTS)), None)
    saved = 0 if checkpoint is None else int(checkpoint.name.removeprefix("step-"))
    step, speed = max(saved, int(last.get("step", 0))), last.get("images_per_second")
    if total is None:
        state: State = "damaged"
    elif is_locked(folder):
        state = "training"
    else:
        state = "done" if saved >= total else "stopped"
    left = None
    if state == "training" and total is not None and batch is not None and speed is not None:
        left = max(0, total - step) * batch / speed
    return Overview(folder, state, step, total, last.get("loss"), speed, left, checkpoint)


def _train_table(recipe: Path) -> dict[str, int]:
    """Return the counts in a recipe's ``[train]``; none if it cannot be read."""
    try:
        table = parse_toml(read_bytes(recipe).decode())["train"]
        return {key: value for key, value in table.items() if type(value) is int and 0 < value <= LARGEST_STEP}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}


def read_log(metrics: Path) -> Iterator[dict[str, float]]:
    """Yield the numbers of all whole log events, as far as a training can have written them.

    Raises:
        OSError: If there is no log, or it cannot be read.
        ValueError: If it is no regular file.
    """
    with open_regular(metrics) as stream:
        while line := stream.readline(TAIL):
            if event := _event(line):
                yield event


def _last_event(metrics: Path) -> dict[str, float]:
    """Return the numbers of the last whole log event; none if there is none."""
    try:
        with open_regular(metrics) as stream:
            stream.seek(-min(TAIL, stream.seek(0, os.SEEK_END)), os.SEEK_END)
            lines = stream.read(TAIL).splitlines()
    except (OSError, ValueError):
        return {}
    return next(filter(None, map(_event, reversed(lines))), {})


def _event(line: bytes) -> dict[str, float]:
    """Return the numbers of a log event; none if it is not whole, as one that is being written, or without a step."""
    try:
        event = {key: value for key, value in parse_json(line).items() if _can_be(key, value)}
    except (ValueError, AttributeError):
        return {}
    return event if "step" in event else {}


def _can_be(name: str, value: object) -> bool:
    """Return whether a training can have logged a number under this name."""
    if name == "step":
        return type(value) is int and 0 <= value <= LARGEST_STEP
    if name == "images_per_second":
        return type(value) is float and SLOWEST <= value < math.inf
    return type(value) is float and math.isfinite(value)
