"""The training loop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pluggy
import torch
from rich.console import Console
from torch import Tensor

from diffkit.callbacks.base import Callback
from diffkit.distributed import StoppedByAnother, Workers
from diffkit.errors import DataError, Diverged, Interrupted, PluginError, Problem, RecipeError, UserError
from diffkit.recipe.load import read_document, validate
from diffkit.recipe.tables import Recipe
from diffkit.recipe.write import to_toml
from diffkit.storage.checkpoint import delete_after, newest_whole, read_checkpoint
from diffkit.storage.files import delete_leftovers, write_atomically
from diffkit.storage.runs import CHECKPOINTS, RECIPE, SNAPSHOTS, locked
from diffkit.train.hooks import Hooks
from diffkit.train.resume import check_same
from diffkit.train.run import TrainingRun
from diffkit.train.stop import StopRequest
from diffkit.train.teacher import read_teacher

ALWAYS = ("jsonl", "progress")
"""Callbacks that every run has; a recipe names them only to change their settings."""


def train(
    recipe: Recipe,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    plugins: pluggy.PluginManager | None = None,
    stop: StopRequest | None = None,
    workers: Workers | None = None,
) -> None:
    """Train a recipe in a run folder.

    Args:
        recipe: The recipe.
        folder: The run folder; made if missing.
        device: Where to train.
        resume: Go on from the folder's newest whole checkpoint, bit for bit as if never stopped.
        plugins: Loaded plugins whose hooks are called.
        stop: Lets another thread stop the run; Ctrl-C and SIGTERM stop it in any case.
        workers: The processes that train it together; all are to call this, and see the same files. By default this one
            alone.

    Raises:
        UserError: If the folder holds another run, or something is wrong with data, checkpoint or plugins.
        Diverged: If the loss is no longer finite. The checkpoints before stay.
        Interrupted: If the run was stopped; after a checkpoint was written.
        StoppedByAnother: If the first process, which is another one, raises one of these.
    """
    stop, workers = stop or StopRequest(), workers or Workers()
    if recipe.train.batch_size < workers.size:
        message = f"must be at least the number of processes, {workers.size}: it is shared among them"
        raise RecipeError(recipe.name, [Problem("train.batch_size", message, recipe.train.batch_size)])
    with workers.first_goes_first():  # the data may have to be downloaded
        data, images = recipe.data.info(), recipe.data.open()  # before there is a folder: data may be missing
    if len(images) != (there := int(workers.from_first(str(len(images)).encode()))):
        raise DataError(f"process {workers.rank} finds {len(images)} images, and the first process {there}")
    if recipe.distillation is not None and not resume:
        read_teacher(recipe, recipe.distillation, data)  # and no teacher that fits
    with stop.listening(), torch.random.fork_rng(devices=[]), contextlib.ExitStack() as held:
        newest = None
        if workers.is_first:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder))
            newest = _opened(recipe, folder, resume)
        run = TrainingRun(recipe, folder, data, images, torch.device(device), workers)
        if name := workers.from_first(str(newest or "").encode()).decode():
            run.load(read_checkpoint(Path(name)))
        elif run.teacher is not None:
            run.start_from_teacher(run.teacher)
        elif recipe.model.init_from is not None:
            report = run.start_from(recipe.model.init_from)
            if workers.is_first:
                Console(stderr=True).print(str(report), markup=False, highlight=False, soft_wrap=True)
        if workers.is_first:
            delete_after(folder / SNAPSHOTS, run.step)
        fit(run, Hooks(plugins, _callbacks(recipe)) if workers.is_first else Hooks(None, ()), stop)


def fit(run: TrainingRun, hooks: Hooks, stop: StopRequest) -> None:
    """Take the steps that are left, with log events, checkpoints and hooks between them.

    Of several processes the first has the hooks. After each step all agree whether one of them is to stop.
    """
    settings, workers = run.recipe.train, run.workers
    saved_at = run.step

    def pause_here(_: int) -> None:
        if stop.requested:  # while a callback samples: that can take minutes
            raise Interrupted

    def save() -> None:
        nonlocal saved_at
        path = run.save()
        saved_at = run.step
        hooks.call("on_checkpoint", run=run, path=path)

    def show(images: Tensor) -> None:
        hooks.call("on_sample", run=run, images=images)

    run.on_network_call, run.on_images = pause_here, show
    try:
        hooks.call("on_train_start", run=run)
        run.start_clock()
        while run.step < settings.steps:
            run.take_step()
            run.save_snapshot()  # before anything can stop the run here: going on from this step, none is taken again
            is_last = run.step == settings.steps
            metrics = run.metrics() if run.step % settings.log_every == 0 or is_last else {}
            try:
                hooks.call("on_train_step", run=run, step=run.step, metrics=metrics)
            except (Interrupted, PluginError):
                workers.largest(True)
                raise
            stopping = workers.largest(stop.requested and not is_last)
            if run.step % settings.checkpoint_every == 0 or is_last:
                save()
            if stopping:
                raise Interrupted
    except (Interrupted, PluginError) as error:
        if run.step > saved_at:
            with _noted(error):
                save()
        _end(hooks, run, error)
        if isinstance(error, PluginError):
            raise
        if not workers.is_first:
            raise StoppedByAnother from None
        raise Interrupted(f"interrupted at step {run.step}; go on with --run {run.folder} --resume") from None
    except Diverged as error:
        _end(hooks, run, error)
        raise Diverged(f"{error}: try a lower learning rate, or train.grad_clip = 1.0. {_left(run)}") from None
    except BaseException as error:
        _end(hooks, run, error)
        raise
    hooks.end(run, None)


def _end(hooks: Hooks, run: TrainingRun, error: BaseException) -> None:
    """Tell everybody that the run failed."""
    with _noted(error):
        hooks.end(run, error)


@contextlib.contextmanager
def _noted(error: BaseException) -> Iterator[None]:
    """Keep what a plugin raises after an error from hiding that error."""
    try:
        yield
    except PluginError as another:
        error.add_note(str(another))


def _left(run: TrainingRun) -> str:
    newest = newest_whole(run.folder / CHECKPOINTS)
    return f"The last good checkpoint is {newest}" if newest else "There is no checkpoint yet"


def _callbacks(recipe: Recipe) -> tuple[Callback, ...]:
    named = {callback.kind for callback in recipe.callbacks}
    return (*recipe.callbacks, *(Callback.choose(kind) for kind in ALWAYS if kind not in named))


def _opened(recipe: Recipe, folder: Path, resume: bool) -> Path | None:
    """Tidy and claim a run folder, and return the checkpoint to go on from, if there is one."""
    (folder / CHECKPOINTS).mkdir(exist_ok=True)
    for place in (folder, folder / CHECKPOINTS, folder / SNAPSHOTS):
        delete_leftovers(place)
    _claim(recipe, folder, resume)
    return newest_whole(folder / CHECKPOINTS) if resume else None


def _claim(recipe: Recipe, folder: Path, resume: bool) -> None:
    """Write the filled recipe into a new run folder, or check it against the one that is there."""
    file = folder / RECIPE
    if file.exists():
        if not resume:
            raise UserError(f"{folder}: holds a run already: go on with --resume, or name another folder")
        check_same(validate(read_document(file), str(file), folder, cross_check=False), recipe, str(file))
    elif resume:
        raise UserError(f"{folder}: holds no run to resume: leave --resume away to start one")
    write_atomically(file, to_toml(recipe))
