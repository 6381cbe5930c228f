"""What may differ between a recipe and the run that goes on with it."""

from __future__ import annotations

from pathlib import Path

from diffkit.errors import Problem, RecipeError
from diffkit.recipe.compare import ABSENT, Difference, differences
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
    "model.checkpoint",
    "model.checkpoint_at",
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
        Problem(
            found.key,
            f"this run was started with {found.one!r}: keep that, or start a new run",
            None if found.other is ABSENT else found.other,
        )
        for found in differences(old, new)
        if not _may_change(found)
    ]
    if problems:
        raise RecipeError(source, problems)


def _may_change(found: Difference) -> bool:
    moved = isinstance(found.one, Path) and isinstance(found.other, Path)
    return moved or any(f"{found.key}.".startswith(f"{free}.") for free in MAY_CHANGE)
