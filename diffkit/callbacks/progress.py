"""The progress of a run in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from diffkit.callbacks.base import Callback, Run
from diffkit.plugins.hookspecs import hookimpl


class ProgressBar(Callback):
    """Shows step, loss, images per second and the time left: a bar in a terminal, else a line a log event."""

    kind: Literal["progress"] = "progress"

    def build(self) -> object:
        """Return a display of its own for each run."""
        console = Console(stderr=True)
        return _Bar(console) if console.is_terminal else _Lines(console)


class _Bar:
    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )

    @hookimpl
    def on_train_start(self, run: Run) -> None:
        self._task = self._progress.add_task(run.name, total=run.total_steps, completed=run.step, numbers="")
        self._progress.start()

    @hookimpl
    def on_train_step(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        self._progress.update(self._task, completed=step)
        if metrics:
            self._progress.update(self._task, numbers=_in_words(metrics))

    @hookimpl
    def on_train_end(self, run: Run, error: BaseException | None) -> None:
        self._progress.stop()


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console

    @hookimpl
    def on_train_step(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        if metrics:
            left = (run.total_steps - step) * run.batch_size / metrics["images_per_second"]
            line = f"{run.name}: step {step}/{run.total_steps}  {_in_words(metrics)}  {left:.0f} s left"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _in_words(metrics: Mapping[str, float]) -> str:
    return f"loss {metrics['loss']:.4f}  {metrics['images_per_second']:.0f} images/s"
