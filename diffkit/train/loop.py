"""The training loop."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import pluggy
import torch
from rich.console import Console
from torch import Tensor

from diffkit.callbacks.base import Callback
from diffkit.distributed import Workers
from diffkit.errors import DataError, Interrupted, PluginError, UserError, must_be_written
from diffkit.out_of_memory import advising
from diffkit.recipe.load import read_document, validate
from diffkit.recipe.tables import Recipe
from diffkit.recipe.write import to_toml
from diffkit.storage.checkpoint import (
    MODEL,
    delete_after,
    list_checkpoints,
    newest_to_go_on_from,
    read_checkpoint,
    recipe_of,
)
from diffkit.storage.files import delete_leftovers, write_atomically
from diffkit.storage.runs import CHECKPOINTS, RECIPE, SNAPSHOTS, locked, mark_as_newest
from diffkit.train.ending import explained, noted
from diffkit.train.hooks import Hooks
from diffkit.train.resume import check_same
from diffkit.train.rows import parts_of_batch
from diffkit.train.run import TrainingRun
from diffkit.train.stop import StopRequest
from diffkit.train.teacher import read_teacher

log = logging.getLogger(__name__)

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
        UserError: If the folder holds another run, something is wrong with data, checkpoint or plugins, memory runs
            out, or a checkpoint or the log cannot be written.
        Diverged: If the loss is no longer finite. The checkpoints before stay.
        Interrupted: If the run was stopped; after a checkpoint was written.
        StoppedByAnother: If the first process, which is another one, raises one of these.
    """
    stop, workers = stop or StopRequest(), workers or Workers()
    parts_of_batch(recipe, workers)  # there must be enough for all
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
            checkpoint = read_checkpoint(Path(name))
            weights = checkpoint.folder / MODEL
            check_same(recipe_of(checkpoint.header, weights), recipe, str(weights))
            if workers.is_first and checkpoint.header.images not in (None, len(images)):
                log.warning(
                    "%s: the data set had %d images, and has %d now", folder, checkpoint.header.images, len(images)
                )
            run.load(checkpoint)
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

    Where it is stopped between two steps, it writes a checkpoint of the last one. Where something fails that must not,
    such as the log of a step, it doesn't: going on from an earlier one does all of it again.

    Of several processes the first has the hooks. After each step all agree whether one of them is to stop.
    """
    settings, workers = run.recipe.train, run.workers
    saved_at = run.step
    at_once = max(map(len, run.parts))

    def pause_here(_: int) -> None:
        if stop.requested:  # while a callback samples: that can take minutes
            raise Interrupted

    def save() -> None:
        nonlocal saved_at
        with must_be_written():
            path = run.save()
        saved_at = run.step
        with run.helped():
            hooks.call("on_checkpoint", run=run, path=path)

    def show(images: Tensor) -> None:
        hooks.call("on_sample", run=run, images=images)

    def take_steps() -> None:
        with run.helped():
            hooks.call("on_train_start", run=run)
        run.start_clock()
        while run.step < settings.steps:
            with advising("train.device_batch_size", at_once):
                run.take_step()
            with must_be_written():
                run.save_snapshot()  # before anything stops the run here: going on from this step, none is taken again
            is_last = run.step == settings.steps
            metrics = run.metrics() if run.logs(run.step) else {}
            try:
                with run.helped():
                    hooks.call("on_train_step", run=run, step=run.step, metrics=metrics)
            except (Interrupted, PluginError):
                workers.largest(True)
                raise
            stopping = workers.largest(stop.requested and not is_last)
            if run.step % settings.checkpoint_every == 0 or is_last:
                save()
            if stopping:
                raise Interrupted

    run.on_network_call, run.on_images = pause_here, show
    try:
        try:
            take_steps()
        except (Interrupted, PluginError, DataError) as error:
            # a step that lacks its data has changed nothing; but other processes wait in the midst of it
            if run.step > saved_at and not (isinstance(error, DataError) and workers.size > 1):
                with noted(error):
                    save()
            raise
    except BaseException as error:
        with noted(error):
            hooks.end(run, error)
        raise explained(error, run) from error.__cause__
    with run.helped():
        hooks.end(run, None)


def _callbacks(recipe: Recipe) -> tuple[Callback, ...]:
    named = {callback.kind for callback in recipe.callbacks}
    return (*recipe.callbacks, *(Callback.choose(kind) for kind in ALWAYS if kind not in named))


def _opened(recipe: Recipe, folder: Path, resume: bool) -> Path | None:
    """Tidy and claim a run folder, and return the checkpoint to go on from, if there is one."""
    (folder / CHECKPOINTS).mkdir(exist_ok=True)
    for place in (folder, folder / CHECKPOINTS, folder / SNAPSHOTS):
        delete_leftovers(place)
    _check_folder(recipe, folder, resume)
    newest = newest_to_go_on_from(folder / CHECKPOINTS) if resume else None
    write_atomically(folder / RECIPE, to_toml(recipe))
    mark_as_newest(folder)
    return newest


def _check_folder(recipe: Recipe, folder: Path, resume: bool) -> None:
    """Check that a run folder is new, or one of a run that can go on with a recipe."""
    file = folder / RECIPE
    if not resume and (file.exists() or list_checkpoints(folder / CHECKPOINTS)):
        raise UserError(f"{folder}: holds a run already: go on with --resume, or name another folder")
    if file.exists():
        check_same(validate(read_document(file), str(file), folder, cross_check=False), recipe, str(file))
    elif resume and not list_checkpoints(folder / CHECKPOINTS):
        raise UserError(f"{folder}: holds no run to resume: leave --resume away to start one")
