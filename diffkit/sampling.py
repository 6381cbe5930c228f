"""Sampling to files: numbered images, one grid, and a note of how they were made."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from pydantic import ValidationError

from diffkit.array_file import ArrayFile
from diffkit.data.decode import UnreadablePictureError, decode_as_is
from diffkit.data.numpy_files import read_npy
from diffkit.data.progress import progress_bar
from diffkit.diffusion.process import half_log_snr
from diffkit.distributed import Workers
from diffkit.errors import RecipeError, UserError
from diffkit.images import grid, save_png
from diffkit.pipeline import Batch, Pipeline
from diffkit.recipe.overrides import apply_override
from diffkit.recipe.tables import Recipe, Sample
from diffkit.spec import problems_of
from diffkit.storage.files import write_atomically
from diffkit.storage.runs import CHECKPOINTS, RECIPE, SAMPLES

IN_GRID = 400
"""So many images, the first ones, go into the grid."""


def sample_settings(recipe: Recipe, options: Mapping[str, Any], overrides: Sequence[str] = ()) -> Sample:
    """Lay options over a recipe's `[sample]` table.

    Args:
        recipe: The recipe.
        options: Settings by name; None leaves the recipe's.
        overrides: ``key=value`` texts, with keys as in the table.

    Raises:
        UserError: With every wrong setting.
    """
    table = recipe.sample.model_dump(mode="json")
    given = {name: value for name, value in options.items() if value is not None}
    if "guidance" in given:  # the weight, whatever the recipe is guided by
        given["guidance"] = {**table["guidance"], "weight": given["guidance"]}
    table.update(given)
    for override in overrides:
        apply_override(table, override)
    try:
        return Sample.model_validate(table)
    except ValidationError as error:
        raise RecipeError("settings of sampling", problems_of(error)) from None


def sample_to_folder(
    pipeline: Pipeline,
    settings: Sample,
    source: Path,
    *,
    out: Path | None = None,
    seed: int = 0,
    label: str | int | None = None,
    size: tuple[int, int] | None = None,
    condition: Sequence[Path] = (),
    vectors: Path | None = None,
    format: Literal["png", "npz"] = "png",
    workers: Workers | None = None,
) -> list[Path]:
    """Sample images into a new folder, with a progress bar.

    Args:
        pipeline: The model.
        settings: How to sample; `settings.count` says how many.
        source: Where the model was loaded from; the run folder decides where `out` is by default.
        out: The folder; must be new or empty.
        seed: Image i depends on it and on i only.
        label: Class of all images; by default the classes in turn.
        size: Height and width, where they should not be those of the data.
        condition: Pictures that a model with an `objective.condition` makes images from, in turn.
        vectors: A .npy file of the vectors ``[M, V]`` that condition the model, in turn.
        format: ``png``: one file an image; ``npz``: one file with ``images [N, H, W, C]`` and ``labels [N]``.
        workers: The processes that share the images; all are to call this, and see the same files. By default this one
            alone.

    Returns:
        The images' files (or the npz file), and last the grid; nothing on another process than the first.

    Raises:
        UserError: If the folder holds something, or the model can't be sampled so.
    """
    workers = workers or Workers()
    pipeline.check(settings)
    labels = pipeline.labels_of(label, range(0), settings.guidance)
    shape = pipeline.shape(size)
    given = read_condition(pipeline, condition, size)
    told = read_vectors(pipeline, vectors)
    made = str(new_folder(source, out, "sample")) if workers.is_first else ""
    folder = Path(workers.from_first(made.encode()).decode())
    count = settings.count
    save: Callable[[Batch], None]
    if format == "png":
        digits = max(5, len(str(count - 1)))
        files = [folder / f"{number:0{digits}d}.png" for number in range(count)]
        save = partial(_save_pictures, files)
    else:
        files = [folder / "images.npz"]
        whole = (count, *shape[1:], shape[0])
        with workers.first_goes_first():
            array = ArrayFile(folder / "images.npy", whole, new=workers.is_first)
        save = partial(_save_rows, array)
    batches = _with_progress(
        pipeline, settings, workers, seed=seed, label=label, size=size, condition=given, vectors=told
    )
    rows = _on_first(workers, _joined(_saving(batches, save)))
    if not workers.is_first:
        return []
    if format == "npz":
        every = pipeline.labels_of(label, range(count), settings.guidance)
        array.pack("images", files[0], {} if every is None else {"labels": every.numpy()})
    classes = len(pipeline.data.classes)
    by_class = labels is not None and label is None and classes <= 20
    picture = folder / "grid.png"
    save_png(grid(rows["images"][:IN_GRID], columns=classes if by_class else None), picture, smallest_side=600)
    about: dict[str, Any] = {"condition": [str(file) for file in condition]} if condition else {}
    if vectors is not None:
        about["vectors"] = str(vectors)
    write_about(folder / "sample.json", source, pipeline, settings, seed=seed, label=label, size=shape[1:], **about)
    return [*files, picture]


def read_condition(
    pipeline: Pipeline, files: Sequence[Path], size: tuple[int, int] | None = None
) -> torch.Tensor | None:
    """Read pictures that a model makes images from: uint8 ``[M, C', h, w]``; None without any.

    Args:
        pipeline: The model.
        files: The pictures, each exactly of the size that the model takes, and grey where it takes grey ones.
        size: Height and width of the images to be made; by default those of the data.

    Raises:
        UserError: If one cannot be read or is not what the model takes.
    """
    channels, height, width = pipeline.condition_shape(size, given=bool(files))
    pictures = []
    for file in files:
        try:
            pictures.append(torch.from_numpy(decode_as_is(file, (height, width), channels)))
        except UnreadablePictureError as error:
            color = "grey" if channels == 1 else "in color"
            wanted = f"the model takes pictures of {height}x{width} (height x width), {color}"
            raise UserError(f"condition: {file}: {error}, and {wanted}") from None
    return torch.stack(pictures) if pictures else None


def read_vectors(pipeline: Pipeline, file: Path | None) -> torch.Tensor | None:
    """Read vectors that condition a model: float32 ``[M, V]``; None without a file.

    Args:
        pipeline: The model.
        file: A .npy file.

    Raises:
        UserError: If it cannot be read or is not what the model takes.
    """
    vectors = None
    if file is not None:
        try:
            vectors = torch.from_numpy(np.array(read_npy(file), dtype=np.float32))
        except OSError as error:
            raise UserError(f"vectors: {file}: cannot be read: {error.strerror or error}") from None
        except Exception as error:  # NumPy's parser of headers raises anything at all on damaged ones
            raise UserError(f"vectors: {file}: not a .npy file of numbers ({error})") from None
    pipeline.check_vectors(vectors)
    return vectors


def describe_walk(pipeline: Pipeline, settings: Sample) -> str:
    """Say which levels the sampler would visit, the log-SNR at each, and how often it would call the network.

    Raises:
        UserError: If the model can't be sampled so.
    """
    pipeline.check(settings)
    levels = settings.spacing.levels(pipeline.recipe.process, settings.steps)
    lines = ["  step          time         alpha         sigma       log-SNR"]
    for step, level in enumerate(levels[:-1], start=1):
        log_snr = 2 * half_log_snr(level)
        lines.append(f"{step:6d} {level.time:13.6g} {level.alpha:13.6g} {level.sigma:13.6g} {log_snr:13.6g}")
    called = settings.sampler.levels_called(levels)
    evaluations = sum(settings.guidance.evaluations(level) for level in called)
    twice = f" ({evaluations} evaluations with guidance)" if evaluations > len(called) else ""
    return "\n".join(
        [
            *lines,
            f"then the {'end' if levels[-1].sigma else 'clean end'}: alpha = {levels[-1].alpha:g}, "
            f"sigma = {levels[-1].sigma:g}",
            f"{settings.sampler.kind} with {settings.spacing.kind} spacing: {settings.steps} steps, "
            f"{len(called)} network calls{twice} for each of {settings.count} images",
        ]
    )


def _saving(batches: Iterable[Batch], save: Callable[[Batch], None]) -> Iterator[Batch]:
    """Save each batch, and yield those that the grid shows: no more than they are ever held."""
    for batch in batches:
        save(batch)
        if batch.numbers.start < IN_GRID:
            yield batch


def _save_pictures(files: Sequence[Path], batch: Batch) -> None:
    for number, image in zip(batch.numbers, batch.images, strict=True):
        save_png(image, files[number])


def _save_rows(array: ArrayFile, batch: Batch) -> None:
    array.put(batch.numbers.start, batch.images.permute(0, 2, 3, 1).numpy())


def _joined(batches: Iterable[Batch]) -> dict[str, torch.Tensor]:
    """Return the images of batches with their numbers and, if there are any, labels, row by row."""
    rows: dict[str, list[torch.Tensor]] = {"numbers": [torch.empty(0, dtype=torch.int64)]}
    for batch in batches:
        rows["numbers"].append(torch.tensor(batch.numbers))
        rows.setdefault("images", []).append(batch.images)
        if batch.labels is not None:
            rows.setdefault("labels", []).append(batch.labels)
    return {name: torch.cat(parts) for name, parts in rows.items()}


def _on_first(workers: Workers, rows: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Return all processes' rows in the order of their numbers, on the first process; nothing on the others."""
    if workers.size == 1:
        return rows
    found = [safetensors.torch.load(part) for part in workers.gather(safetensors.torch.save(dict(rows)))]
    parts = [part for part in found if len(part["numbers"])]  # a process may have had no batch
    if not parts:
        return {}
    order = torch.cat([part["numbers"] for part in parts]).argsort()
    return {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}


def _with_progress(pipeline: Pipeline, settings: Sample, workers: Workers, **what: Any) -> Iterator[Batch]:
    """Yield this process's batches, with a progress bar on the first one."""
    levels = settings.spacing.levels(pipeline.recipe.process, settings.steps)
    starts = workers.share(range(0, settings.count, settings.batch_size))
    counts = [min(settings.batch_size, settings.count - start) for start in starts]
    with contextlib.ExitStack() as shown:
        advance = None
        if workers.is_first:
            calls = sum(counts) * settings.sampler.calls(levels)
            advance = shown.enter_context(progress_bar("sampling", calls, of="calls"))
        for start, count in zip(starts, counts, strict=True):
            yield from pipeline.batches(count, settings, first=start, on_call=advance, **what)


def write_about(file: Path, source: Path, pipeline: Pipeline, settings: Sample, **about: Any) -> None:
    """Write down how images were made: the model and its weights, what else there is to say, and the settings."""
    content = {"model": str(source), "weights": pipeline.weights, **about, "sample": settings.model_dump(mode="json")}
    write_atomically(file, json.dumps(content, indent=2) + "\n")


def new_folder(source: Path, out: Path | None, name: str) -> Path:
    """Make the folder for images of a model: `out`, or ``RUN/samples/NAME-N`` with the next free number.

    Raises:
        UserError: If `out` is there and not an empty folder.
    """
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: exists already and is not an empty folder: name another one with --out")
        out.mkdir(parents=True, exist_ok=True)
        return out
    parent = run_of(source) / SAMPLES
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        try:
            folder = parent / f"{name}-{number}"
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def run_of(source: Path) -> Path:
    """Return the run folder that a run, checkpoint or weights file belongs to; else the working directory."""
    for folder in (source, *source.parents):
        if (folder / RECIPE).is_file() and (folder / CHECKPOINTS).is_dir():
            return folder
    return Path()
