"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, a run folder, or the name of a packaged recipe.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings to change, such as train.steps=100. Values are TOML; a bare word is text.",
    ),
]
RunPath = Annotated[
    Path | None, typer.Argument(help="Run folder, checkpoint folder or weights file; the newest run by default.")
]
SampleOverrides = Annotated[
    list[str] | None, typer.Argument(help="Settings of the recipe's [sample] table, as key=value.")
]
ImageSeed = Annotated[int, typer.Option("--seed", min=0, help="Image i depends on the seed and on i only.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Number of images at once.")]
PluginFiles = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="A Python file with further components. May be given several times."),
]
Device = Annotated[
    str, typer.Option(help="Where torch computes, such as cpu, cuda or cuda:1. auto: a GPU if there is one.")
]
Size = Annotated[
    str | None,
    typer.Option(metavar="HxW", help="Height and width, such as 32x48 or 32; by default those of the data."),
]
WeightsKind = Annotated[Literal["ema", "raw"], typer.Option("--weights", help="Averaged or last weights.")]
EmaLength = Annotated[
    float | None,
    typer.Option(
        "--ema",
        metavar="LENGTH",
        help="Length of the average of the weights, made of the snapshots of a run with train.ema = 'power'.",
    ),
]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickled-weights",
        help="Read pickled weights (.bin, .pt, .pth) of another library, by torch.load(weights_only=True).",
    ),
]
OutFile = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write to a file, not to the screen.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
FeaturesKind = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="What metrics compare, or its table; by default a classifier where there are labels, else inception.",
    ),
]
SplitName = Annotated[
    Literal["train", "test"] | None,
    typer.Option(help="Part of the data set; the one for testing by default, where there is one."),
]
ReferenceCount = Annotated[
    int | None, typer.Option(min=1, help="Number of the data set's images, chosen by chance; all by default.")
]
