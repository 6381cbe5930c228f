"""``diffkit train-classifier``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from diffkit.cli.options import Device, Force, Overrides, PluginFiles, RecipeName


def command(
    recipe: RecipeName,
    overrides: Overrides = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Run folder to write into; RECIPE, if that is one, or else the recipe's newest run."),
    ] = None,
    device: Device = "auto",
    plugin: PluginFiles = None,
    force: Force = False,
) -> None:
    """Train a classifier of a recipe's noisy images, for guidance. Ctrl-C stops, and writes nothing."""
    from diffkit.cli.common import load_plugins, pick_device
    from diffkit.storage.runs import newest_run
    from diffkit.train.classifier import train_classifier

    chosen = load_plugins(plugin).open_recipe(recipe, overrides or ())
    given = Path(recipe)
    folder = run or (given if given.is_dir() else newest_run(name=chosen.name))
    done = train_classifier(chosen, folder, device=pick_device(device), force=force)
    images = "images that were held out" if done.held_out else "the images of the training"
    print(f"accuracy on {images}, from the least noise to the most, by quarters of the way:", file=sys.stderr)
    print("  ".join(f"{part:.1%}" for part in done.accuracy), file=sys.stderr)
    print(done.file)
