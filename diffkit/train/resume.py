"""What may differ between a recipe and the run that goes on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffkit.errors import Problem, RecipeError
from diffkit.recipe.tables import Recipe

MAY_CHANGE = {
    "plugins",
    "callbacks",
    "classifier",
    "sample",
    "train.steps",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_last",
    "train.keep_every",
    "train.ema.snapshots",
    "train.shard",
    "train.device_batch_size",
}
"""What doesn't change the steps taken so far. Paths may change too: data moves."""


def check_same(old: Recipe, new: Recipe, source: str) -> None:
    """Check that a run of one recipe can go on with another.

    Args:
        old: The recipe of the run, or of the checkpoint that it is to go on from.
        new: The recipe to go on with.
        source: The file of the old one.

    Raises:
        RecipeError: With every setting that must not change.
    """
    problems = [
        Problem(key, f"this run was started with {was!r}: keep that, or start a new run", now)
        for key, was, now in _differences(old.model_dump(), new.model_dump(), "")
    ]
    if problems:
        raise RecipeError(source, problems)


def _differences(old: Any, new: Any, key: str) -> list[tuple[str, Any, Any]]:
    if old == new or key in MAY_CHANGE or (isinstance(old, Path) and isinstance(new, Path)):
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        names = dict.fromkeys([*old, *new])
        return [
            difference
            for name in names
            for difference in _differences(old.get(name), new.get(name), f"{key}.{name}".removeprefix("."))
        ]
    return [(key, old, new)]
