"""The rules between the tables of a recipe, checked before any image is read."""

from __future__ import annotations

from dataclasses import replace

import torch

from diffkit.errors import DataError, Problem
from diffkit.recipe.tables import Recipe


def find_problems(recipe: Recipe) -> list[Problem]:
    """Return everything that doesn't fit together, each with its key and a way out."""
    return [
        *_process(recipe),
        *_times(recipe),
        *_data_and_model(recipe),
        *_training(recipe),
        *_sampling(recipe),
        *_callbacks(recipe),
    ]


def _process(recipe: Recipe) -> list[Problem]:
    try:
        recipe.process.alpha(torch.tensor([0]))
    except ValueError as error:
        return [Problem("process", str(error))]
    return []


def _times(recipe: Recipe) -> list[Problem]:
    known = recipe.model.times_known()
    if known is None or recipe.process.steps <= known:
        return []
    message = f"this embedding knows {known} times, and process.steps = {recipe.process.steps}: give it as many"
    return [Problem("model.embedding", message)]


def _data_and_model(recipe: Recipe) -> list[Problem]:
    try:
        data = recipe.data.info()
    except DataError as error:
        return [Problem("data", str(error))]
    return [replace(problem, key=f"model.{problem.key}") for problem in recipe.model.problems(data)]


def _training(recipe: Recipe) -> list[Problem]:
    whole, part = recipe.train.batch_size, recipe.train.device_batch_size
    if part is not None and whole % part:
        return [Problem("train.device_batch_size", f"must divide train.batch_size = {whole}", part)]
    return []


def _sampling(recipe: Recipe) -> list[Problem]:
    problems = []
    if recipe.sample.steps > recipe.process.steps:
        message = f"the process has {recipe.process.steps} times, so at most {recipe.process.steps} steps can be taken"
        problems.append(Problem("sample.steps", message, recipe.sample.steps))
    if reason := guidance_refused(recipe, recipe.sample.guidance):
        problems.append(Problem("sample.guidance", reason, recipe.sample.guidance))
    return problems


def _callbacks(recipe: Recipe) -> list[Problem]:
    return [
        replace(problem, key=f"callbacks[{i}].{problem.key}")
        for i, callback in enumerate(recipe.callbacks)
        for problem in callback.problems(recipe)
    ]


def guidance_refused(recipe: Recipe, guidance: float) -> str | None:
    """Return why a model of this recipe cannot be guided with this weight, or None if it can."""
    if guidance == 1.0:
        return None
    if not recipe.model.class_conditional:
        return "guidance needs a class-conditional model: set model.class_conditional = true and train anew"
    if recipe.objective.label_dropout == 0:
        return "guidance needs a model that was trained without labels too: set objective.label_dropout = 0.1"
    return None
