"""Pictures of what the model can do, during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from diffkit.callbacks.base import Callback, Run
from diffkit.diffusion.samplers.base import Sampler
from diffkit.errors import Problem
from diffkit.images import grid, save_png
from diffkit.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from diffkit.recipe.tables import Recipe


class SampleGrid(Callback):
    """Samples a grid of images at set steps, always from the same noise, into the run's ``samples`` folder."""

    kind: Literal["sample_grid"] = "sample_grid"
    every: int = Field(5_000, ge=1)
    """Steps between two grids."""
    count: int = Field(64, ge=1)
    """Number of images."""
    seed: int = Field(0, ge=0)
    """Seed of the images' noise."""
    sampler: Sampler | None = None
    """The sampler; that of the recipe's `[sample]` table by default."""
    steps: int | None = Field(None, ge=1)
    """Number of sampling steps; that of the recipe's `[sample]` table by default."""

    def problems(self, recipe: Recipe) -> list[Problem]:
        """Return that the process cannot be sampled in so many steps, or a student of a distillation not so."""
        if self.steps is None and self.sampler is None:
            return []
        sampler, steps = self.sampler or recipe.sample.sampler, self.steps or recipe.sample.steps
        if self.steps is not None and (reason := recipe.sample.spacing.refuses(recipe.process, self.steps)):
            return [Problem("steps", reason, self.steps)]
        if recipe.distillation is None:
            return []
        reason = recipe.distillation.refuses_walk(recipe.process, sampler, recipe.sample.spacing, steps)
        return [Problem("sampler" if self.steps is None else "steps", reason)] if reason else []

    @hookimpl
    def on_train_step(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """Sample and save a grid, if it is time."""
        if step % self.every:
            return
        settings = {"sampler": self.sampler, "steps": self.steps}
        images = run.sample(self.count, self.seed, **{k: v for k, v in settings.items() if v is not None})
        folder = run.folder / "samples"
        folder.mkdir(exist_ok=True)
        save_png(grid(images), folder / f"step-{step:08d}.png", smallest_side=600)
