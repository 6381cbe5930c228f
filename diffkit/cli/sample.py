"""``diffkit sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from diffkit.cli.options import (
    AllowPickle,
    BatchSize,
    Device,
    EmaLength,
    ImageSeed,
    PluginFiles,
    SampleOverrides,
    Size,
    WeightsKind,
)

Format = Literal["png", "npz"]


def command(
    run: Annotated[
        Path | None,
        typer.Argument(
            help="Run folder, checkpoint folder, weights file or model of another library; the newest run by default."
        ),
    ] = None,
    overrides: SampleOverrides = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of sampling steps.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Kind of sampler.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Number of images.")] = None,
    batch_size: BatchSize = None,
    seed: ImageSeed = 0,
    label: Annotated[str | None, typer.Option(help="Class of all images; the classes in turn by default.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Weight of classifier-free guidance.")] = None,
    size: Size = None,
    condition: Annotated[
        list[Path] | None,
        typer.Option(metavar="IMAGE", help="Picture that the model makes images from; repeat it for several, in turn."),
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .npy file of vectors that condition the model, in turn.")
    ] = None,
    weights: WeightsKind = "ema",
    ema: EmaLength = None,
    out: Annotated[Path | None, typer.Option(help="New folder; RUN/samples/sample-N by default.")] = None,
    format: Annotated[Format, typer.Option(help="Numbered PNG files, or one npz file.")] = "png",
    device: Device = "auto",
    allow_pickled_weights: AllowPickle = False,
    plugin: PluginFiles = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the noise levels and the number of network calls, and stop.")
    ] = False,
) -> None:
    """Sample images of a trained model: numbered files and one grid."""
    from diffkit.cli.common import chosen_weights, load_plugins, parse_size, pick_device, run_and_overrides
    from diffkit.distributed import Workers
    from diffkit.interop.formats import is_foreign, load_any
    from diffkit.sampling import describe_walk, sample_settings, sample_to_folder
    from diffkit.storage.runs import newest_run

    with Workers.joined() as workers:
        load_plugins(plugin)
        chosen = chosen_weights(weights, ema)
        run, overrides = run_and_overrides(run, overrides)
        source = run or newest_run()
        sides = parse_size(size)
        pipeline = load_any(
            source, chosen, pick_device(workers.device(device)), allow_pickle=allow_pickled_weights, steps=steps
        )
        pipeline.shape(sides)
        options: dict[str, Any] = {
            "steps": None if is_foreign(source) else steps,  # a model of another library was read for them
            "sampler": sampler,
            "count": count,
            "batch_size": batch_size,
            "guidance": guidance,
        }
        settings = sample_settings(pipeline.recipe, options, overrides)
        if dry_run:
            if workers.is_first:
                print(describe_walk(pipeline, settings))
            return
        for file in sample_to_folder(
            pipeline,
            settings,
            source,
            out=out,
            seed=seed,
            label=label,
            size=sides,
            condition=condition or (),
            vectors=vectors,
            format=format,
            workers=workers,
        ):
            print(file)
