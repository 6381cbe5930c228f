"""How a training ends that doesn't reach its last step: what is said of it, and what is left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from diffkit.distributed import StoppedByAnother
from diffkit.errors import Diverged, Interrupted, OutOfMemory, PluginError, WriteError
from diffkit.storage.checkpoint import newest_whole
from diffkit.storage.runs import CHECKPOINTS
from diffkit.train.run import TrainingRun


def explained(error: BaseException, run: TrainingRun) -> BaseException:
    """Return what a run raises at its end: an error that says also what is left, and how to go on."""
    go_on = f"go on with --run {run.folder} --resume"
    match error:
        case Interrupted() if not run.workers.is_first:
            return StoppedByAnother()
        case Interrupted():
            return Interrupted(f"interrupted at step {run.step}; {go_on}")
        case Diverged():
            return Diverged(f"{error}: try a lower learning rate, or train.grad_clip = 1.0. {_left(run)}")
        case WriteError():
            return WriteError(f"{error}. {_left(run)}: once it can be written, {go_on}")
        case OutOfMemory():
            return OutOfMemory(f"{error}, and {go_on}. {_left(run)}")
    return error


@contextlib.contextmanager
def noted(error: BaseException) -> Iterator[None]:
    """Keep what a plugin raises after an error from hiding that error."""
    try:
        yield
    except PluginError as another:
        error.add_note(str(another))


def _left(run: TrainingRun) -> str:
    newest = newest_whole(run.folder / CHECKPOINTS)
    return f"The last good checkpoint is {newest}" if newest else "There is no checkpoint yet"
