"""Quality against network calls: many ways of sampling one model, each evaluated alike, and which of them to take."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from diffkit import __version__
from diffkit.bounds import parse_json
from diffkit.errors import Interrupted, RecipeError, UserError
from diffkit.evaluating import Given, Reference, about_model, about_sampling, digest_of, identity_of, sample_and_see
from diffkit.evaluation.base import Jackknife, Score
from diffkit.pipeline import Pipeline
from diffkit.recipe.tables import Sample
from diffkit.sampling import sample_settings
from diffkit.storage.files import sync, write_atomically

KEY = re.compile(r"[0-9a-f]{1,128}")
"""What a cell's key looks like: a hash, and no path that leads elsewhere."""

CELLS = "cells.jsonl"
"""One line a cell that is done."""

EMA = "ema"
"""The weights that are meant where none are named."""

STANDARD_ERRORS = 2.0
"""Two estimates closer than so many standard errors of their difference are not told apart."""


@dataclass(frozen=True)
class Cell:
    """One way of sampling, which is evaluated.

    Attributes:
        weights: The name of the model's weights.
        settings: How to sample.
        calls: Network calls for each image.
        evaluations: How often a network sees each image; guidance may take two for a call.
    """

    weights: str
    settings: Sample
    calls: int
    evaluations: int

    @property
    def name(self) -> str:
        """What it is called in messages and pictures."""
        weight = self.settings.guidance.weight
        guided = "" if weight == 1 else f" with guidance {weight:g}"
        return f"{self.sampler} in {self.settings.steps} steps{guided}" + (
            "" if self.weights == EMA else f", {self.weights}"
        )

    @property
    def cost(self) -> str:
        """What it costs, in words."""
        twice = "" if self.evaluations == self.calls else f", {self.evaluations} evaluations"
        return f"{self.calls} network calls{twice}"

    @property
    def sampler(self) -> str:
        """The sampler's kind, with the settings that are not the kind's defaults."""
        sampler = self.settings.sampler
        changed = sampler.model_dump(mode="json", exclude={"kind"}, exclude_defaults=True)
        return ", ".join([sampler.kind_name(), *(f"{name}={value}" for name, value in changed.items())])


@dataclass(frozen=True)
class Plan:
    """What a sweep will do.

    Attributes:
        cells: The ways of sampling.
        left_out: Why others can not be taken, by their names.
    """

    cells: tuple[Cell, ...]
    left_out: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Found:
    """What was found for one cell.

    Attributes:
        cell: The way of sampling.
        report: All there is to know, as what JSON can hold.
        jackknife: The estimates of scores whose noise is known, by the scores' names.
    """

    cell: Cell
    report: Mapping[str, Any]
    jackknife: Mapping[str, Jackknife]

    @property
    def values(self) -> dict[str, float]:
        """The scores' values by name."""
        return {name: score["value"] for name, score in self.report["scores"].items()}


@dataclass(frozen=True)
class Advice:
    """The way of sampling to take.

    Attributes:
        found: The cell, as it was evaluated.
        score: The name of the score that decided.
        reason: Why, in a sentence.
        same: All cells that are not told apart from the best one.
    """

    found: Found
    score: str
    reason: str
    same: Sequence[Found]


def plan(
    models: Mapping[str, Pipeline],
    samplers: Sequence[Any],
    steps: Sequence[int],
    guidance: Sequence[float] = (),
    options: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> Plan:
    """Cross weights, samplers, numbers of steps and guidance, before anything is sampled.

    Args:
        models: The model with each of the weights to compare, by their names; all else is the same in them.
        samplers: Kinds of samplers, or their tables.
        steps: Numbers of steps.
        guidance: Weights of guidance; the recipe's by default.
        options: Other settings of `[sample]` by name; None leaves the recipe's.
        overrides: ``key=value`` texts, with keys as in the table `[sample]`.

    Raises:
        UserError: With all wrong settings; or if the model can be sampled in none of these ways, with the reasons.
    """
    any_model = next(iter(models.values()))
    cells: list[Cell] = []
    problems: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for sampler in samplers:
        for weight in guidance or (None,):
            for number in steps:
                given = {**(options or {}), "sampler": sampler, "steps": number, "guidance": weight}
                try:
                    settings = sample_settings(any_model.recipe, given, overrides)
                except RecipeError as error:
                    problems |= {str(problem): problem for problem in error.problems}  # the same for each number
                    continue
                costs = _costs(any_model, settings)
                for weights in models:
                    cell = Cell(weights, settings, *((0, 0) if isinstance(costs, str) else costs))
                    if isinstance(costs, str):
                        left_out[cell.name] = costs
                    elif cell not in cells:
                        cells.append(cell)
    if problems:
        raise RecipeError("settings of the sweep", list(problems.values()))
    if not cells:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in left_out.items())
        raise UserError(f"the model can be sampled in none of these ways:{reasons}")
    return Plan(tuple(cells), left_out)


def _costs(pipeline: Pipeline, settings: Sample) -> tuple[int, int] | str:
    """Return the calls and evaluations for an image, or why the model cannot be sampled so."""
    try:
        pipeline.check(settings)
        about = about_sampling(pipeline, settings, seed=0)  # walks too, on a single pixel
    except (UserError, ValueError) as error:
        return str(error)
    return about["network_calls"], about["network_evaluations"]


def sweep(
    models: Mapping[str, Pipeline],
    cells: Sequence[Cell],
    reference: Reference,
    folder: Path,
    *,
    seed: int = 0,
    on_done: Callable[[Found], None] | None = None,
) -> list[Found]:
    """Evaluate all cells, with a progress bar: the same numbers of images, of the same seed.

    Each cell is written down as soon as it is done, under a hash of all that has a part in it. A cell that is written
    down already, by whichever sweep, is not done again.

    Args:
        models: The model with each of the weights, by their names.
        cells: The ways of sampling, as from `plan`.
        reference: What samples are compared with. Its processes share the work; all are to call this, and only the
            first one is answered.
        folder: Where cells are written down, and what is found of single images until a cell is done.
        seed: Image i depends on it and on i only.
        on_done: Told of each cell.

    Raises:
        UserError: If there are too few images for a metric, or one doesn't compare features.
        Interrupted: On Ctrl-C. What was done is kept.
    """
    workers = reference.workers
    reference.measures.refuse_model_metrics("is the same for every sampler: see diffkit evaluate")
    shared = {"diffkit": __version__, "seed": seed, **reference.about(), "metrics": reference.measures.dumped()}
    about = {weights: about_model(pipeline) for weights, pipeline in models.items()}
    keys = [digest_of({**shared, "model": about[cell.weights], "sample": identity_of(cell.settings)}) for cell in cells]
    notes = _Notes(folder) if workers.is_first else None
    done = set(json.loads(workers.from_first(json.dumps(list(notes.written) if notes else []).encode())))
    found: list[Found] = []
    work = sum(cell.settings.count * cell.calls for cell, key in zip(cells, keys, strict=True) if key not in done)
    try:
        if work:
            reference.extract()
        with workers.progress_bar("sweep", work // workers.size) as advance:
            for cell, key in zip(cells, keys, strict=True):
                if key not in done:
                    started, pipeline = time.perf_counter(), models[cell.weights]
                    given = Given.of(pipeline, cell.settings, reference.images, reference.numbers)
                    unfinished = folder / "unfinished" / key
                    made = sample_and_see(
                        pipeline, cell.settings, reference, seed=seed, given=given, folder=unfinished, on_call=advance
                    )
                    if notes is not None:
                        evaluation = reference.compare(made)
                        report = {
                            "key": key,
                            "seconds": round(time.perf_counter() - started, 3),
                            "diffkit": __version__,
                            "model": {"weights": cell.weights, **about[cell.weights]},
                            "sampling": about_sampling(pipeline, cell.settings, seed, given.names()),
                            **evaluation.to_json(),
                        }
                        notes.add(report, _known(evaluation.scores))
                        shutil.rmtree(unfinished, ignore_errors=True)
                if notes is not None:
                    found.append(Found(cell, *notes.written[key]))
                    if on_done is not None:
                        on_done(found[-1])
        with contextlib.suppress(OSError):  # there is none, or another sweep's are in it
            (folder / "unfinished").rmdir()
    except KeyboardInterrupt:
        of_all = f"{len(found)} of {len(cells)} cells are done and kept in {folder}"
        raise Interrupted(f"interrupted: {of_all}; the same command goes on from there") from None
    return found


def _known(scores: Mapping[str, Score]) -> dict[str, Jackknife]:
    """Return the estimates of those scores whose noise is known."""
    return {name: score.jackknife for name, score in scores.items() if score.jackknife is not None}


class _Notes:
    """The cells that are done, in a file of one line for each, to which lines are only ever added.

    Beside it is a file a cell of the estimates that its scores' noise was found from.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "cells").mkdir(parents=True, exist_ok=True)
        self._file = folder / CELLS
        self.written: dict[str, tuple[dict[str, Any], dict[str, Jackknife]]] = {}
        for line in self._file.read_bytes().split(b"\n") if self._file.exists() else ():
            with contextlib.suppress(ValueError, KeyError, TypeError, OSError, SafetensorError):
                # what a killed process left half written, or somebody damaged, is done again
                report = parse_json(line)
                if not KEY.fullmatch(report["key"]):
                    continue
                content = self._beside(report["key"]).read_bytes()
                if hashlib.sha256(content).hexdigest() == report["jackknife"]:
                    self.written[report["key"]] = report, _unpacked(report["scores"], content)

    def _beside(self, key: str) -> Path:
        return self._folder / "cells" / f"{key}.safetensors"

    def add(self, report: dict[str, Any], kept: dict[str, Jackknife]) -> None:
        content = _packed(kept)
        write_atomically(self._beside(report["key"]), content)
        report = {**report, "jackknife": hashlib.sha256(content).hexdigest()}
        with self._file.open("ab") as stream:  # one write at the end: two sweeps at once do not mix their lines
            whole = stream.tell() == 0 or _last_byte(self._file) == b"\n"
            stream.write((b"" if whole else b"\n") + json.dumps(report).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        sync(self._folder)
        self.written[report["key"]] = report, kept


def _last_byte(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read()


def _packed(kept: Mapping[str, Jackknife]) -> bytes:
    tensors: dict[str, Tensor] = {}
    for name, jackknife in kept.items():
        tensors |= {f"{name}.generated": jackknife.without_generated, f"{name}.real": jackknife.without_real}
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})


def _unpacked(scores: Mapping[str, Any], content: bytes) -> dict[str, Jackknife]:
    tensors = safetensors.torch.load(content)
    return {
        name: Jackknife(score["value"], tensors[f"{name}.generated"], tensors[f"{name}.real"])
        for name, score in scores.items()
        if f"{name}.generated" in tensors
    }


def deciding_score(found: Sequence[Found]) -> str | None:
    """Return the name of the score that a recommendation goes by: the first whose noise is known; None without any."""
    return next((name for name in found[0].values if all(name in one.jackknife for one in found)), None)


def indistinguishable(found: Sequence[Found], score: str) -> list[Found]:
    """Return those that are not told apart from the best one, by a score of which less is better.

    A difference counts if it is larger than `STANDARD_ERRORS` of its standard errors, which is that of the difference
    image by image: see `Jackknife`.
    """
    best = min(found, key=lambda one: one.jackknife[score].value)
    return [one for one in found if not _is_worse(one, best, score)]


def _is_worse(one: Found, best: Found, score: str) -> bool:
    difference = one.jackknife[score] - best.jackknife[score]
    return difference.value > STANDARD_ERRORS * difference.error


def advise(found: Sequence[Found]) -> Advice | None:
    """Recommend the cheapest way that is not told apart from the best one.

    Cheapest in network evaluations; of two that cost the same, the one with the better score. None where no score's
    noise is known.
    """
    score = deciding_score(found)
    if score is None:
        return None
    best = min(found, key=lambda one: one.jackknife[score].value)
    same = indistinguishable(found, score)
    taken = min(same, key=lambda one: (one.cell.evaluations, one.jackknife[score].value))
    value = f"{score} = {taken.jackknife[score].value:.4g}"
    if taken is best:
        cheaper = sum(one.cell.evaluations < best.cell.evaluations for one in found)
        others = f", and all {cheaper} cheaper ones are worse by more than {STANDARD_ERRORS:g} standard errors"
        return Advice(taken, score, f"{value} is the least found{others if cheaper else ''}", same)
    difference = taken.jackknife[score] - best.jackknife[score]
    return Advice(
        taken,
        score,
        f"{value} is not told apart from the least, {best.jackknife[score].value:.4g} of {best.cell.name} "
        f"({best.cell.cost}): the difference on the same noise is {difference.value:.2g} ± {difference.error:.2g}",
        same,
    )


def to_json(found: Sequence[Found], advice: Advice | None, left_out: Mapping[str, str]) -> dict[str, Any]:
    """Return a whole sweep as what JSON can hold: the recommendation, and all cells with all that was found."""
    return {
        "recommended": None if advice is None else _of_advice(advice),
        "left_out": dict(left_out),
        "cells": [{"name": one.cell.name, **one.report} for one in found],
    }


def _of_advice(advice: Advice) -> dict[str, Any]:
    cell = advice.found.cell
    return {
        "name": cell.name,
        "weights": cell.weights,
        "sampler": cell.settings.sampler.model_dump(mode="json"),
        "steps": cell.settings.steps,
        "guidance": cell.settings.guidance.weight,
        "network_calls": cell.calls,
        "network_evaluations": cell.evaluations,
        "score": advice.score,
        "reason": advice.reason,
        "not_told_apart_from_the_best": [one.cell.name for one in advice.same],
    }
