"""``diffkit summary``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkit.cli.options import Overrides, PluginFiles, RecipeName

if TYPE_CHECKING:
    from rich.table import Table

    from diffkit.nn.summary import Summary


def command(recipe: RecipeName, overrides: Overrides = None, plugin: PluginFiles = None) -> None:
    """Show the layers of a recipe's network.

    For each its output for one image, its parameters and its FLOPs. Nothing is allocated or trained.
    """
    from rich.console import Console

    from diffkit.cli.common import load_plugins
    from diffkit.cli.validate import build_on_meta
    from diffkit.nn.summary import summarize
    from diffkit.pipeline import ports_of

    chosen = load_plugins(plugin).open_recipe(recipe, overrides or ())
    data = chosen.data.info()
    summary = summarize(build_on_meta(chosen), data, ports_of(chosen, data))
    table = as_table(summary, chosen.name)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # a pipe or a file takes lines of any length
        console.width = console.measure(table, options=console.options.update(width=10_000)).maximum
    console.print(table)


def as_table(summary: Summary, title: str) -> Table:
    """Lay a summary out as a table: one row a layer, and the totals."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_footer=True, title=title, title_justify="left")
    table.add_column("layer", "total", overflow="fold")
    table.add_column("kind")
    table.add_column("output")
    table.add_column("parameters", f"{summary.parameters:,}", justify="right")
    table.add_column("FLOPs", f"{summary.flops:,}", justify="right")
    for layer in summary.layers:
        shape = "×".join(map(str, layer.output))
        table.add_row(layer.name, layer.kind, shape, f"{layer.parameters:,}", f"{layer.flops:,}")
    return table
