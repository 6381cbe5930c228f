"""The rules between the tables of a recipe, checked before any image is read."""

from __future__ import annotations

from dataclasses import replace

import torch

from diffkit.diffusion.guidance import Guidance
from diffkit.diffusion.process import DiscreteProcess, Process
from diffkit.diffusion.spacing import Spacing
from diffkit.errors import DataError, Problem
from diffkit.nn.base import TimeEmbedding
from diffkit.recipe.tables import ClassifierTraining, Recipe, Sample


def find_problems(recipe: Recipe) -> list[Problem]:
    """Return everything that doesn't fit together, each with its key and a way out."""
    return [
        *problems_of_model(recipe),
        *_data_and_model(recipe),
        *_training(recipe),
        *_sampling(recipe),
        *_callbacks(recipe),
        *_distillation(recipe),
        *(classifier_problems(recipe, recipe.classifier) if recipe.classifier is not None else ()),
    ]


def problems_of_model(recipe: Recipe) -> list[Problem]:
    """Return what doesn't fit together of the recipe of a trained model, whose data set need not be there."""
    return [*_process(recipe), *_objective(recipe), *_times(recipe)]


def _process(recipe: Recipe) -> list[Problem]:
    process = recipe.process
    try:
        process.alpha(process.at(torch.ones(1, dtype=torch.float64)))
    except ValueError as error:
        return [Problem("process", str(error))]
    return []


def _objective(recipe: Recipe) -> list[Problem]:
    """Return what of the objective does not fit the process."""
    objective = recipe.objective
    found = {
        ("prediction", objective.prediction.kind): objective.prediction.refuses(recipe.process),
        ("variance", objective.variance.kind): objective.variance.refuses(recipe.process),
        ("weighting", objective.weighting.kind): objective.weighting.refuses(recipe.process),
        ("time_sampling", objective.time_sampling.kind): objective.time_sampling.refuses(recipe.process),
    }
    return [Problem(f"objective.{key}", reason, kind) for (key, kind), reason in found.items() if reason]


def _times(recipe: Recipe) -> list[Problem]:
    """Return that the network doesn't know all times of the process, or cannot tell them apart."""
    model = recipe.model
    problems = _times_unknown(recipe.process, model.times_known(), "model.embedding")
    for name in type(model).model_fields:
        part = getattr(model, name)
        if isinstance(part, TimeEmbedding):
            problems += _times_alike(recipe.process, part, f"model.{name}")
    if ends := _ends(recipe.process):
        problems += [replace(problem, key=f"model.{problem.key}") for problem in model.problems_of_least(min(ends))]
    return problems


def _ends(process: Process) -> list[float]:
    """Return what the network sees of a process's first and last time; nothing if the process has a problem."""
    try:
        return process.network_time(process.at(torch.tensor([0.0, 1.0], dtype=torch.float64))).tolist()
    except ValueError:
        return []


def _times_alike(process: Process, embedding: TimeEmbedding, key: str) -> list[Problem]:
    """Return that all times of a process have nearly the same features, or that the least one has none."""
    ends = _ends(process)
    if not ends:
        return []
    span = abs(ends[1] - ends[0])
    reason = embedding.refuses_least(min(ends)) or (embedding.refuses_span(span) if span > 0 else None)
    return [Problem(key, reason, embedding.kind)] if reason else []


def _times_unknown(process: Process, known: int | None, key: str) -> list[Problem]:
    """Return that a network that knows so many times doesn't know all of a process."""
    if known is None:
        return []
    if not isinstance(process, DiscreteProcess):
        message = (
            f"this embedding knows whole times only, and those of the process '{process.kind}' are real: use another"
        )
        return [Problem(key, message)]
    if process.steps <= known:
        return []
    message = f"this embedding knows {known} times, and process.steps = {process.steps}: give it as many"
    return [Problem(key, message)]


def _data_and_model(recipe: Recipe) -> list[Problem]:
    try:
        data = recipe.data.info()
    except DataError as error:
        return [Problem("data", str(error))]
    problems = [replace(problem, key=f"model.{problem.key}") for problem in recipe.model.problems(data)]
    condition = recipe.objective.condition
    if reason := condition.refuses(*data.shape):
        problems.append(Problem("objective.condition", reason, condition.kind))
    return problems


def _training(recipe: Recipe) -> list[Problem]:
    whole, part = recipe.train.batch_size, recipe.train.device_batch_size
    if part is not None and whole % part:
        return [Problem("train.device_batch_size", f"must divide train.batch_size = {whole}", part)]
    return []


def _sampling(recipe: Recipe) -> list[Problem]:
    problems = []
    if problem := spacing_refused(recipe, recipe.sample.spacing, recipe.sample.steps):
        problems.append(replace(problem, key=f"sample.{problem.key}"))
    if reason := guidance_refused(recipe, recipe.sample.guidance):
        problems.append(Problem("sample.guidance", reason, recipe.sample.guidance.weight))
    return problems


def _distillation(recipe: Recipe) -> list[Problem]:
    if recipe.distillation is None:
        return []
    problems = recipe.distillation.problems(recipe.process, recipe.objective, recipe.train.steps)
    if recipe.model.init_from is not None:
        message = "a student starts from its teacher: leave this out"
        problems.append(Problem("model.init_from", message, str(recipe.model.init_from)))
    if recipe.distillation.guidance != 1 and not recipe.model.class_conditional:
        message = "guidance needs a class-conditional teacher: leave this out"
        problems.append(Problem("distillation.guidance", message, recipe.distillation.guidance))
    steps, ema = recipe.train.steps, recipe.train.ema
    if recipe.distillation.phase(steps - 1, steps).number and ema.keeps_snapshot(steps, steps):
        message = "averages begin anew when the student becomes the teacher, so none can be made of snapshots: set 0"
        problems.append(Problem("train.ema.snapshots", message))
    if reason := walk_refused(recipe, recipe.sample):
        problems.append(Problem("sample", reason))
    return problems


def _callbacks(recipe: Recipe) -> list[Problem]:
    return [
        replace(problem, key=f"callbacks[{i}].{problem.key}")
        for i, callback in enumerate(recipe.callbacks)
        for problem in callback.problems(recipe)
    ]


def spacing_refused(recipe: Recipe, spacing: Spacing, steps: int) -> Problem | None:
    """Return what is wrong with a number of steps or their spacing, or None if a model of this recipe can take them."""
    process = recipe.process
    if reason := spacing.refuses(process, steps):
        too_many = isinstance(process, DiscreteProcess) and steps > process.steps
        return Problem("steps", reason, steps) if too_many else Problem("spacing", reason, spacing.kind)
    return None


def guidance_refused(recipe: Recipe, guidance: Guidance) -> str | None:
    """Return why a model of this recipe cannot be guided so, or None if it can."""
    return guidance.refuses(
        class_conditional=recipe.model.class_conditional, label_dropout=recipe.objective.label_dropout
    )


def walk_refused(recipe: Recipe, sample: Sample) -> str | None:
    """Return why a student of this recipe cannot be sampled so, and what to do; None if it can, or is no student."""
    distillation = recipe.distillation
    if distillation is None:
        return None
    if distillation.guidance != 1 and sample.guidance.weight != 1:
        return f"the student has learned images of the guidance {distillation.guidance:g}: set guidance = 1"
    return distillation.refuses_walk(recipe.process, sample.sampler, sample.spacing, sample.steps)


def classifier_problems(recipe: Recipe, settings: ClassifierTraining) -> list[Problem]:
    """Return why no such classifier can be trained with a recipe's images and noise."""
    try:
        data = recipe.data.info()
    except DataError:
        return []  # reported with the data
    if not data.classes:
        return [Problem("classifier", "the data set has no labels to learn: choose one with labels")]
    network = settings.network
    problems = [replace(problem, key=f"classifier.network.{problem.key}") for problem in network.problems(data)]
    key = "classifier.network.embedding"
    return [
        *problems,
        *_times_unknown(recipe.process, network.embedding.times_known(), key),
        *_times_alike(recipe.process, network.embedding, key),
    ]
