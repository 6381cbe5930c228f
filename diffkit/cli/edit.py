"""``diffkit edit``: what a trained model does with given images, one subcommand each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffkit.cli.common import chosen_weights
from diffkit.cli.options import BatchSize, Device, EmaLength, PluginFiles, Size, WeightsKind
from diffkit.errors import UserError

if TYPE_CHECKING:
    from diffkit.editing.folder import Request
    from diffkit.storage.runs import Weights

group = typer.Typer(
    name="edit",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Edit images with a trained model: fill holes, vary, interpolate, invert.",
)

Run = Annotated[Path, typer.Argument(help="Run folder, checkpoint folder or weights file.")]
Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE... [KEY=VALUE]...",
        help="Pictures of the size and channels of the model's images; behind them, settings of the recipe's [sample] "
        "table.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the recipe's [sample] table."),
]
Count = Annotated[int, typer.Option(min=1, help="Results of each picture.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Number of sampling steps of a whole walk.")]
SamplerKind = Annotated[str | None, typer.Option("--sampler", help="Kind of sampler.")]
Seed = Annotated[int, typer.Option(min=0, help="Result n depends on the seed, on n and on its picture.")]
Label = Annotated[str | None, typer.Option(help="Class of all images; by default the model is not told any.")]
Guidance = Annotated[float | None, typer.Option(help="Weight of classifier-free guidance; needs --label.")]
Out = Annotated[Path | None, typer.Option(help="New folder; RUN/samples/edit-N by default.")]
Resize = Annotated[
    bool, typer.Option("--resize", help="Scale, crop and convert pictures that are not as the model's images are.")
]


@group.command()
def inpaint(
    run: Run,
    images: Images,
    mask: Annotated[Path, typer.Option(help="A picture: white where to paint anew, black where to keep.")],
    count: Count = 1,
    jump: Annotated[
        int | None, typer.Option(min=1, help="Steps that are taken again at once; by default a 25th of all.")
    ] = None,
    repetitions: Annotated[int, typer.Option(min=1, help="How often each step is taken.")] = 10,
    steps: Steps = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    label: Label = None,
    guidance: Guidance = None,
    size: Size = None,
    resize: Resize = False,
    weights: WeightsKind = "ema",
    ema: EmaLength = None,
    out: Out = None,
    device: Device = "auto",
    plugin: PluginFiles = None,
) -> None:
    """Fill holes in pictures (RePaint). Takes ancestral steps, whatever the recipe's sampler."""
    chosen = chosen_weights(weights, ema)
    files, overrides = _split(images)
    if any(override.partition("=")[0].partition(".")[0] == "sampler" for override in overrides):
        raise UserError("inpainting takes ancestral steps, so there is no sampler to choose: leave it out")
    options = {"steps": steps, "batch_size": batch_size, "guidance": guidance}
    request = _request(
        run, options, overrides, chosen, device, plugin, seed=seed, label=label, out=out, size=size, resize=resize
    )
    _print(request.inpaint(files, mask, count=count, jump=jump, repetitions=repetitions))


@group.command()
def vary(
    run: Run,
    images: Images,
    strength: Annotated[
        float, typer.Option(max=1, help="How much to change, above 0 and up to 1: the part of the walk that is taken.")
    ] = 0.5,
    count: Count = 1,
    steps: Steps = None,
    sampler: SamplerKind = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    label: Label = None,
    guidance: Guidance = None,
    size: Size = None,
    resize: Resize = False,
    weights: WeightsKind = "ema",
    ema: EmaLength = None,
    out: Out = None,
    device: Device = "auto",
    plugin: PluginFiles = None,
) -> None:
    """Make images like pictures: add noise and remove it again (SDEdit, image to image)."""
    chosen = chosen_weights(weights, ema)
    files, overrides = _split(images)
    options = {"steps": steps, "sampler": sampler, "batch_size": batch_size, "guidance": guidance}
    request = _request(
        run, options, overrides, chosen, device, plugin, seed=seed, label=label, out=out, size=size, resize=resize
    )
    _print(request.vary(files, strength, count=count))


@group.command()
def interpolate(
    run: Run,
    overrides: Overrides = None,
    images: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A B", help="From one picture to another, by inversion.")
    ] = None,
    seeds: Annotated[
        tuple[int, int] | None, typer.Option(metavar="A B", min=0, help="From the first image of a seed to another's.")
    ] = None,
    count: Annotated[int, typer.Option(min=2, help="Number of images, both ends among them.")] = 10,
    steps: Steps = None,
    sampler: SamplerKind = None,
    batch_size: BatchSize = None,
    label: Label = None,
    guidance: Guidance = None,
    size: Size = None,
    resize: Resize = False,
    weights: WeightsKind = "ema",
    ema: EmaLength = None,
    out: Out = None,
    device: Device = "auto",
    plugin: PluginFiles = None,
) -> None:
    """Make images between two pictures, or between those of two seeds."""
    chosen = chosen_weights(weights, ema)
    if (images is None) == (seeds is None):
        raise UserError("say what to interpolate between: --images A B for two pictures, or --seeds A B")
    options = {"steps": steps, "sampler": sampler, "batch_size": batch_size, "guidance": guidance}
    request = _request(
        run, options, overrides or (), chosen, device, plugin, label=label, out=out, size=size, resize=resize
    )
    if images is not None:
        _print(request.interpolate_images(*images, count=count))
    elif seeds is not None:
        _print(request.interpolate_seeds(*seeds, count=count))


@group.command()
def invert(
    run: Run,
    images: Images,
    steps: Steps = None,
    sampler: SamplerKind = None,
    batch_size: BatchSize = None,
    label: Label = None,
    guidance: Guidance = None,
    size: Size = None,
    resize: Resize = False,
    weights: WeightsKind = "ema",
    ema: EmaLength = None,
    out: Out = None,
    device: Device = "auto",
    plugin: PluginFiles = None,
) -> None:
    """Find the noise that leads to pictures (DDIM inversion), and what it leads to."""
    chosen = chosen_weights(weights, ema)
    files, overrides = _split(images)
    options = {"steps": steps, "sampler": sampler, "batch_size": batch_size, "guidance": guidance}
    request = _request(run, options, overrides, chosen, device, plugin, label=label, out=out, size=size, resize=resize)
    written, errors = request.invert(files)
    _print(written)
    for file, error in zip(files, errors, strict=True):
        print(f"{file}: the reconstruction is {error:.2f} of 255 grey values away (root mean square)", file=sys.stderr)


def _split(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Tell pictures from settings: a text with a = is a setting, unless there is such a file."""
    overrides = [text for text in arguments if "=" in text and not Path(text).exists()]
    files = [Path(text) for text in arguments if text not in overrides]
    if not files:
        raise UserError("no picture is named, only settings")
    return files, overrides


def _request(
    run: Path,
    options: dict[str, Any],
    overrides: Sequence[str],
    weights: Weights,
    device: str,
    plugins: list[Path] | None,
    *,
    seed: int = 0,
    label: str | None,
    out: Path | None,
    size: str | None,
    resize: bool,
) -> Request:
    from diffkit.cli.common import load_plugins, parse_size, pick_device
    from diffkit.editing.editor import Editor
    from diffkit.editing.folder import Request
    from diffkit.pipeline import Pipeline
    from diffkit.sampling import sample_settings

    load_plugins(plugins)
    sides = parse_size(size)
    pipeline = Pipeline.load(run, weights, pick_device(device))
    settings = sample_settings(pipeline.recipe, options, overrides)
    return Request(Editor(pipeline, settings, seed, label), run, out, sides, resize)


def _print(files: Sequence[Path]) -> None:
    for file in files:
        print(file)
