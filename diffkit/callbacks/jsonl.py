"""The log of a run as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

from diffkit.bounds import parse_json
from diffkit.callbacks.base import Callback, Run
from diffkit.plugins.hookspecs import hookimpl


class Jsonl(Callback):
    """Writes each log event as one line of ``metrics.jsonl``.

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
        kept = [line for line in file.read_text(errors="replace").splitlines() if _step(line) <= run.step]
        temporary = file.with_name(".tmp-metrics.jsonl")
        temporary.write_text("".join(f"{line}\n" for line in kept))
        temporary.replace(file)

    @hookimpl
    def on_train_step(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """Write one line."""
        if metrics:
            with (run.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, **metrics}) + "\n")


def _step(line: str) -> float:
    """Return a line's step; a line that was cut short counts as later than all."""
    try:
        return int(parse_json(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return float("inf")
