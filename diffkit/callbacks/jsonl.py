"""The log of a run as lines of JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from diffkit.bounds import parse_json
from diffkit.callbacks.base import Callback, Run
from diffkit.errors import must_be_written, naming
from diffkit.plugins.hookspecs import hookimpl


class Jsonl(Callback):
    """Writes each log event as one line of ``metrics.jsonl``; a number that isn't finite as ``null``.

    When a run goes on from a checkpoint, lines of later steps are taken out first, so that each step stands
    there once.
    """

    kind: Literal["jsonl"] = "jsonl"

    @hookimpl
    def on_train_start(self, run: Run) -> None:
        """Take out what was written after the checkpoint that the run goes on from."""
        file = run.folder / "metrics.jsonl"
        if not file.exists():
            return
        with must_be_written(), naming(file):
            kept = [line for line in file.read_text(errors="replace").splitlines() if _step(line) <= run.step]
            temporary = file.with_name(".tmp-metrics.jsonl")
            _write(temporary, "w", "".join(f"{line}\n" for line in kept))
            temporary.replace(file)

    @hookimpl(tryfirst=True)  # before what may raise: the checkpoint that follows is of a step that is logged
    def on_train_step(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """Write one line."""
        if metrics:
            numbers = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
            file = run.folder / "metrics.jsonl"
            with must_be_written(), naming(file):
                _write(file, "a", json.dumps({"step": step, **numbers}) + "\n")


def _write(file: Path, mode: Literal["w", "a"], text: str) -> None:
    """Write to the disk itself: a checkpoint that outlives a power cut must not be of a later step than the log."""
    with file.open(mode) as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _step(line: str) -> float:
    """Return a line's step; a line that was cut short counts as later than all."""
    try:
        return int(parse_json(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return float("inf")
