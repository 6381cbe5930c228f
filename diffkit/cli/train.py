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
    from diffkit.storage.runs import new_run, newest_run
    from diffkit.train.loop import train
    from diffkit.train.teacher import read_teacher

    plugins = load_plugins(plugin)
    chosen = plugins.open_recipe(recipe, overrides or ())
    where = pick_device(device)
    if dry_run:
        images = chosen.data.open()
        if chosen.distillation is not None:
            read_teacher(chosen, chosen.distillation, chosen.data.info())
        print(f"{chosen.name}: ok: {len(images)} images of {'×'.join(map(str, chosen.data.info().shape))}, on {where}")
        return
    folder = run or (newest_run(name=chosen.name) if resume else new_run(chosen.name))
    train(chosen, folder, device=where, resume=resume, plugins=plugins.manager)
    print(folder)
