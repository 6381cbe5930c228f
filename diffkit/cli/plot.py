"""``diffkit plot``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffkit.cli.options import Force, Overrides, PluginFiles, RecipeName
from diffkit.errors import UserError

if TYPE_CHECKING:
    from diffkit.plotting.canvas import Format


def command(
    recipe: RecipeName,
    overrides: Overrides = None,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="FAMILY", help="Draw all kinds of a family, such as spacing, in the place of the recipe's."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="A .png or .svg file; NAME.png or NAME-FAMILY.png by default."
        ),
    ] = None,
    force: Force = False,
    plugin: PluginFiles = None,
) -> None:
    """Draw a recipe's noise process, loss weights, training times, spacing and sampler.

    Or draw all kinds of a family next to each other. No network is needed: samplers walk on data whose exact answer is
    known.
    """
    format = None if out is None else _format_of(out)
    from diffkit.cli.common import load_plugins, write_new
    from diffkit.plotting.canvas import to_bytes
    from diffkit.plotting.draw import draw_family, draw_recipe, variants

    chosen = load_plugins(plugin).open_recipe(recipe, overrides or ())
    file = out or Path(f"{chosen.name}-{compare}.png" if compare else f"{chosen.name}.png")
    if compare is None:
        figure = draw_recipe(chosen)
    else:
        found = variants(chosen, compare)
        for kind, reason in found.left_out.items():
            print(f"Left out: {kind}: {reason}", file=sys.stderr)
        figure = draw_family(compare, found.recipes)
    write_new(file, to_bytes(figure, format or "png"), force=force)
    print(file)


def _format_of(file: Path) -> Format:
    match file.suffix.lower():
        case ".png":
            return "png"
        case ".svg":
            return "svg"
    raise UserError(f"{file}: a picture's name ends in .png or .svg")
