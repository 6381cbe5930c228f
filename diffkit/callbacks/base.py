"""The family of callbacks, and the run that they see."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from diffkit.spec import Component

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diffkit.errors import Problem
    from diffkit.recipe.tables import Recipe


class Run(Protocol):
    """A training run, as callbacks and plugins see it.

    Attributes:
        folder: The run folder.
        step: Number of optimizer steps taken.
        total_steps: Number of steps of the whole run.
        batch_size: Number of images of one step.
        name: The recipe's name.
        model: The network that is trained.
    """

    @property
    def folder(self) -> Path: ...  # noqa: D102
    @property
    def step(self) -> int: ...  # noqa: D102
    @property
    def total_steps(self) -> int: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def model(self) -> nn.Module: ...  # noqa: D102

    def sample(self, count: int, seed: int = 0, **settings: object) -> Tensor:
        """Sample images from the averaged weights: uint8 ``[count, C, H, W]``.

        Args:
            count: Number of images.
            seed: Image i depends on it and on i only.
            **settings: Settings of the recipe's `[sample]` table to change.
        """


class Callback(Component):
    """Something that watches a run, through the same hooks as a plugin.

    A kind implements any of the hooks ``on_train_start``, ``on_train_step``, ``on_checkpoint``,
    ``on_sample`` and ``on_train_end``, marked with ``@diffkit.hookimpl``: on itself if it keeps no state, else
    on the object that its `build` returns.
    """

    family = "callback"

    def problems(self, recipe: Recipe) -> list[Problem]:
        """Return what doesn't fit the rest of the recipe, with keys relative to the callback's table."""
        return []

    def build(self) -> object:
        """Return the object whose hooks are called, new for each run."""
        return self
