"""``diffkit export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffkit.cli.options import AllowPickle, EmaLength, PluginFiles, WeightsKind


def command(
    run: Annotated[Path, typer.Argument(help="Run folder, checkpoint folder, weights file or model of a library.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings of the recipe's [sample] table, such as sampler=ddim."),
    ] = None,
    format: Annotated[str, typer.Option(help="What to write: diffusers, torch-export or onnx.")] = "diffusers",
    weights: WeightsKind = "ema",
    ema: EmaLength = None,
    allow_pickled_weights: AllowPickle = False,
    plugin: PluginFiles = None,
) -> None:
    """Write a model for another library. What that cannot express exactly is refused."""
    from diffkit.cli.common import chosen_weights, load_plugins
    from diffkit.interop.formats import exporters, find, load_any
    from diffkit.sampling import sample_settings

    load_plugins(plugin)
    exporter = find(exporters(), format)
    pipeline = load_any(run, chosen_weights(weights, ema), allow_pickle=allow_pickled_weights)
    sample = sample_settings(pipeline.recipe, {}, overrides or ())
    pipeline.recipe = pipeline.recipe.model_copy(update={"sample": sample})
    for file in exporter.write(pipeline, folder):
        print(file)
