"""``diffkit likelihood``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from diffkit.cli.options import Device, EmaLength, Force, PluginFiles, RunPath, WeightsKind


def command(
    run: RunPath = None,
    count: Annotated[int, typer.Option(min=1, help="Number of images, which the seed chooses.")] = 64,
    method: Annotated[
        Literal["vlb", "ode"],
        typer.Option(help="The variational bound, or the likelihood of the probability-flow ODE."),
    ] = "vlb",
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Times of the bound, all by default; or steps of the ODE, 100 by default."),
    ] = None,
    split: Annotated[
        Literal["train", "test"] | None,
        typer.Option(help="Part of the data set; the one for testing by default, where there is one."),
    ] = None,
    weights: WeightsKind = "ema",
    ema: EmaLength = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of images at once.")] = 64,
    seed: Annotated[
        int, typer.Option(min=0, help="What chance draws for an image depends on it and on that image.")
    ] = 0,
    device: Device = "auto",
    plugin: PluginFiles = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write all numbers to a JSON file too.")
    ] = None,
    force: Force = False,
) -> None:
    """How probable a model finds images of its data set, in bits per dimension."""
    from diffkit.cli.common import chosen_weights, load_plugins, pick_device, refuse_existing, write_new
    from diffkit.likelihood import evaluate_likelihood, open_split
    from diffkit.pipeline import Pipeline
    from diffkit.storage.runs import newest_run

    refuse_existing(out, force=force)
    load_plugins(plugin)
    source = run or newest_run()
    pipeline = Pipeline.load(source, chosen_weights(weights, ema), pick_device(device))
    dataset, images = open_split(pipeline, split)
    found = evaluate_likelihood(
        pipeline, images, method=method, count=count, steps=steps, batch_size=batch_size, seed=seed
    )
    part = f" ({dataset.split})" if hasattr(dataset, "split") else ""
    way = "variational bound at" if method == "vlb" else "ODE in"
    unit = "times" if method == "vlb" else "steps"
    print(f"{source}: {count} images of {dataset.kind_name()}{part}, {way} {found.steps} {unit}")
    print(f"{found.table()}\n{found.calls} network calls for each image")
    if out is not None:
        about = {"model": str(source), "data": dataset.model_dump(mode="json"), "method": method, "seed": seed}
        write_new(out, json.dumps({**about, **found.to_json()}, indent=2) + "\n", force=force)
        print(out)
