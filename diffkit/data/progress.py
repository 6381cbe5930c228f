"""A progress bar on standard error, for downloads and for decoding."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def progress_bar(
    name: str, total: int | None, done: int = 0, *, is_bytes: bool = False
) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs; nothing where standard error is no terminal.

    Args:
        name: What is going on.
        total: Number of bytes or images in all; None if unknown.
        done: How many of them were there before.
        is_bytes: Count bytes, not images.

    Yields:
        A function to call with the number of bytes or images that came in.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn() if is_bytes else MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=total, completed=done)
        yield lambda count: progress.advance(task, count)
