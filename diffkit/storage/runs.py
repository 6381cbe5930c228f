"""Run folders: their names, their order, and the lock that keeps two trainings apart."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from diffkit.errors import CheckpointError, UserError, did_you_mean
from diffkit.storage.checkpoint import EMA, MODEL, STATE, newest_whole, verify_weights

RUNS = Path("runs")
"""Where runs lie, under the working directory."""

RECIPE, METRICS, CHECKPOINTS, SAMPLES = "recipe.toml", "metrics.jsonl", "checkpoints", "samples"

SNAPSHOTS = "ema"
"""The folder of the averages that are kept for good."""

Weights = Literal["ema", "raw"] | float
"""Which weights of a model are meant: those averaged during training, those of the last step, or the average of a
length, made of the run's snapshots (`diffkit.storage.reconstruct`)."""

LOCK = ".lock"

MOMENT = 0.05
"""So many seconds, twice, a training waits for a lock that only somebody who looks at the folder may hold."""

CLEARLY = 2_000_000_000
"""Nanoseconds between two times that any file system tells apart."""

CLASSIFIER = "classifier.safetensors"
"""A classifier of a run's noisy images, for guidance."""


def new_run(name: str, root: Path = RUNS) -> Path:
    """Return the folder ``NAME-N`` with the next number. It is not made yet."""
    numbers = [_number(path, name) for path in root.iterdir()] if root.is_dir() else []
    return root / f"{name}-{max(numbers, default=0) + 1}"


def newest_run(root: Path = RUNS, name: str | None = None) -> Path:
    """Return the run that was started last, of all or of one recipe.

    Raises:
        UserError: If there is none.
    """
    runs = [path for path in root.glob("*") if (path / RECIPE).is_file() and (name is None or _number(path, name))]
    if not runs:
        of = f" of '{name}'" if name else ""
        raise UserError(
            f"no run{of} under {root.absolute()}: train one first, with: diffkit train {name or 'quickstart'}"
        )
    return max(runs, key=lambda path: ((path / RECIPE).stat().st_mtime_ns, path.name))


def mark_as_newest(folder: Path) -> None:
    """Let a run that starts now count as the newest of those beside it, also after the clock was put back."""
    recipes = [file.stat().st_mtime_ns for file in folder.parent.glob(f"*/{RECIPE}") if file.parent.name != folder.name]
    mine = (folder / RECIPE).stat().st_mtime_ns
    if recipes and max(recipes) >= mine:
        os.utime(folder / RECIPE, ns=(max(recipes) + CLEARLY, max(recipes) + CLEARLY))


def find_weights(path: Path, weights: str) -> Path:
    """Return the weights file that a run folder, a checkpoint folder or a file stands for.

    Args:
        path: What the user named.
        weights: ``ema`` or ``raw``; has no say where `path` is a file.

    Raises:
        CheckpointError: If there is no whole checkpoint, or the file's hash shows that it is damaged.
    """
    if path.is_file():
        verify_weights(path)
        return path
    if not path.is_dir():
        beside = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
        raise CheckpointError(f"{path}: no such run or checkpoint.{did_you_mean(path.name, beside)}")
    name = EMA if weights == "ema" else MODEL
    if (path / STATE).is_file() or (path / name).is_file():
        verify_weights(path / name)
        return path / name
    newest = newest_whole(path / CHECKPOINTS)
    if newest is None:
        raise CheckpointError(f"{path}: no whole checkpoint in this folder")
    return newest / name


def home_of(path: Path) -> Path:
    """Return the folder that all of a model lies in: its run, or else the folder of a file, or `path` itself."""
    path = path.absolute()
    folder = path if path.is_dir() else path.parent
    return folder.parent.parent if folder.parent.name in (CHECKPOINTS, SNAPSHOTS) else folder


def find_classifier(path: Path) -> Path:
    """Return the classifier's file that a run folder or the file itself stands for.

    Raises:
        CheckpointError: If there is none.
    """
    if path.is_file():
        return path
    if (path / CLASSIFIER).is_file():
        return path / CLASSIFIER
    if not path.is_dir():
        beside = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
        raise CheckpointError(f"{path}: no such run or classifier.{did_you_mean(path.name, beside)}")
    raise CheckpointError(f"{path}: holds no classifier: train one with: diffkit train-classifier {path}")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder for one training. The lock ends with the process, however that ends.

    Raises:
        UserError: If another process is training in this folder.
    """
    with (folder / LOCK).open("w") as handle:
        for patience in (MOMENT, MOMENT, None):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if patience is None:
                    raise UserError(f"{folder}: another process is training in this folder") from None
                time.sleep(patience)
        yield


def is_locked(folder: Path) -> bool:
    """Return whether a process holds a run folder. To find out, this one holds it for a moment."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY | os.O_NONBLOCK)  # of a pipe, none would wait
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        finally:
            os.close(handle)
    except BlockingIOError:
        return True
    except OSError:  # nobody ever did
        return False
    return False


def _number(path: Path, name: str) -> int:
    match = re.fullmatch(re.escape(name) + r"-(\d+)", path.name)
    return int(match[1]) if match else 0
