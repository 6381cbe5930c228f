"""``diffkit import``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffkit.cli.options import AllowPickle, PluginFiles
from diffkit.errors import UserError

if TYPE_CHECKING:
    from diffkit.interop.base import Imported


def command(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="File or folder of another library.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="New folder, for diffkit sample; may be left out with --check.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="What the source does not say itself, such as steps=20."),
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="Library that the model is of; by default seen from the source.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Print what means something else there, and the largest difference between the outputs of both.",
        ),
    ] = False,
    allow_pickled_weights: AllowPickle = False,
    plugin: PluginFiles = None,
) -> None:
    """Read a model of another library. What cannot be expressed exactly is refused."""
    from diffkit.cli.common import load_plugins
    from diffkit.interop.base import Source
    from diffkit.interop.formats import read_foreign

    load_plugins(plugin)
    if folder is not None and "=" in str(folder) and not folder.exists():
        settings, folder = [str(folder), *(settings or ())], None
    if folder is None and not check:
        raise UserError("name a new folder to write the model into, or --check to compare only")
    imported = read_foreign(Source(source, allow_pickled_weights, _table(settings or ())), format)
    if check:
        print(report(imported))
    if folder is not None:
        for file in imported.write(folder):
            print(file)


def report(imported: Imported) -> str:
    """Write what means something else in the source, and how far the outputs of both networks are apart."""
    lines = [f"  {difference}" for difference in imported.differences] or ["  none"]
    if imported.measure is None:
        measured = "not measured: the other library is not installed, or brings no network to compare to"
    else:
        measured = f"{imported.measure(imported.network()):.1e}"
    return "\n".join(["differences in meaning:", *lines, f"largest difference of the networks' outputs: {measured}"])


def _table(settings: Any) -> dict[str, Any]:
    from diffkit.recipe.overrides import apply_override

    table: dict[str, Any] = {}
    for setting in settings:
        apply_override(table, setting)
    return table
