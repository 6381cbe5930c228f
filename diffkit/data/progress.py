"""How far a piece of work is, on standard error: a bar in a terminal, else a line now and then."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Literal, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

EVERY = 30.0
"""Seconds between two lines. What takes less says nothing."""

COLUMNS = {"images": MofNCompleteColumn, "bytes": DownloadColumn, "calls": TaskProgressColumn}


class Advance(Protocol):
    """Is told what was done."""

    def __call__(self, count: int, note: str = "") -> None:
        """Count some more.

        Args:
            count: How many images, bytes or calls.
            note: What else to say, from now on.
        """


@contextlib.contextmanager
def progress_bar(
    name: str, total: int | None, done: int = 0, *, of: Literal["images", "bytes", "calls"] = "images"
) -> Iterator[Advance]:
    """Show how far the block is while it runs.

    Args:
        name: What is going on.
        total: Number of images, bytes or calls in all; None if unknown.
        done: How many of them were there before.
        of: What is counted.

    Yields:
        A function to call with the number that was done.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console, name, total, done)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        COLUMNS[of](),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task, said = progress.add_task(name, total=total, completed=done, note=""), ""

        def advance(count: int, note: str = "") -> None:
            nonlocal said
            said = note or said
            progress.update(task, advance=count, note=said)

        yield advance


class _Lines:
    """Prints a line each `EVERY` seconds."""

    def __init__(self, console: Console, name: str, total: int | None, done: int) -> None:
        self._console, self._name, self._total, self._before, self._done = console, name, total, done, done
        self._note = ""
        self._began = self._said = time.monotonic()

    def __call__(self, count: int, note: str = "") -> None:
        self._done += count
        self._note = note or self._note
        now = time.monotonic()
        if now - self._said >= EVERY:
            self._said = now
            line = "  ".join(filter(None, (f"{self._name}: {self._how_far(now - self._began)}", self._note)))
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _how_far(self, seconds: float) -> str:
        if not self._total:
            return f"{self._done} done"
        left = seconds * (self._total - self._done) / max(1, self._done - self._before)
        return f"{self._done / self._total:.0%} done, {left:.0f} s left"
