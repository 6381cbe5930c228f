"""The hooks of diffkit. A plugin implements any of them, each marked with ``@diffkit.hookimpl``.

This module imports neither torch nor any component, and a plugin's module should not either: imports belong
inside `register_components`, so that ``diffkit --help`` stays quick.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import typer
    from torch import Tensor

    from diffkit.callbacks.base import Run
    from diffkit.spec import Component

hookspec = pluggy.HookspecMarker("diffkit")
hookimpl = pluggy.HookimplMarker("diffkit")
"""Marks a function or method as the implementation of the hook of its name."""


@hookspec
def register_components() -> Iterable[type[Component]]:  # type: ignore[empty-body]
    """Return the kinds that the plugin adds. All of them become usable, or on a clash of names none."""


@hookspec
def register_commands(app: typer.Typer) -> None:
    """Add commands to the command line."""


@hookspec
def register_recipes() -> Iterable[Path]:  # type: ignore[empty-body]
    """Return recipe files that the plugin brings; ``diffkit recipes`` lists them."""


@hookspec
def on_train_start(run: Run) -> None:
    """Called once before the first step, also when a run is resumed."""


@hookspec
def on_train_step(run: Run, step: int, metrics: Mapping[str, float]) -> None:
    """Called after each optimizer step.

    Args:
        run: The run.
        step: The number of steps taken, from 1.
        metrics: The logged numbers at every `train.log_every`-th step: ``loss`` (mean since the last log) and that of
            each quarter of the way to noise (``loss_q1`` to ``loss_q4``, those where no image was left out),
            ``grad_norm``, ``update_ratio``, ``ema_distance``, ``lr``, ``images_per_second``. Empty at all other steps,
            since reading them would make the device wait.
    """


@hookspec
def on_checkpoint(run: Run, path: Path) -> None:
    """Called after a checkpoint was written whole; `path` is its folder."""


@hookspec
def on_sample(run: Run, images: Tensor) -> None:
    """Called when images were sampled during training: uint8 ``[N, C, H, W]`` on the CPU."""


@hookspec
def on_train_end(run: Run, error: BaseException | None) -> None:
    """Called once after the last step, or with the error that stopped the run."""
