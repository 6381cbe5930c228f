"""``diffkit train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffkit.cli.options import Device, Overrides, PluginFiles, RecipeName


def command(
    recipe: RecipeName,
    overrides: Overrides = None,
    run: Annotated[
        Path | None, typer.Option(help="Run folder; runs/NAME-N with the next free number by default.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint of the run (by default NAME's newest).")
    ] = False,
    device: Device = "auto",
    plugin: PluginFiles = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, open the data, and stop.")] = False,
) -> None:
    """Train a recipe. Ctrl-C writes a checkpoint and stops."""
    from diffkit.cli.common import load_plugins, pick_device
    from diffkit.distributed import Workers
    from diffkit.storage.runs import new_run, newest_run
    from diffkit.train.loop import train
    from diffkit.train.teacher import read_teacher

    with Workers.joined() as workers:
        plugins = load_plugins(plugin)
        chosen = plugins.open_recipe(recipe, overrides or ())
        where = pick_device(workers.device(device))
        if dry_run:
            with workers.first_goes_first():
                images = chosen.data.open()
            if chosen.distillation is not None:
                read_teacher(chosen, chosen.distillation, chosen.data.info())
            if workers.is_first:
                shape = "×".join(map(str, chosen.data.info().shape))
                print(f"{chosen.name}: ok: {len(images)} images of {shape}, on {where}")
            return
        if run is None and workers.is_first:
            run = newest_run(name=chosen.name) if resume else new_run(chosen.name)
        folder = Path(workers.from_first(str(run).encode()).decode())
        train(chosen, folder, device=where, resume=resume, plugins=plugins.manager, workers=workers)
        if workers.is_first:
            print(folder)
