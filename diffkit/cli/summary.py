"""``diffkit summary``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from diffkit.cli.options import Device, Overrides, PluginFiles, RecipeName

if TYPE_CHECKING:
    from rich.table import Table

    from diffkit.benchmarking.memory import Job
    from diffkit.benchmarking.prediction import Peak
    from diffkit.nn.summary import Summary


def command(
    recipe: RecipeName,
    overrides: Overrides = None,
    memory: Annotated[
        bool, typer.Option("--memory", help="Predict the most memory that training and sampling take, too.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="With --memory: measure it as well, by a few steps on random images.")
    ] = False,
    device: Device = "auto",
    plugin: PluginFiles = None,
) -> None:
    """Show the layers of a recipe's network.

    For each its output for one image, its parameters and its FLOPs. Nothing is allocated or trained, unless memory is
    measured.
    """
    from rich.console import Console

    from diffkit.cli.common import load_plugins, pick_device
    from diffkit.cli.validate import build_on_meta
    from diffkit.errors import UserError
    from diffkit.nn.summary import summarize
    from diffkit.pipeline import ports_of

    if measure and not memory:
        raise UserError("--measure: needs --memory")
    chosen = load_plugins(plugin).open_recipe(recipe, overrides or ())
    data = chosen.data.info()
    summary = summarize(build_on_meta(chosen), data, ports_of(chosen, data))
    tables = [as_table(summary, chosen.name)]
    too_much = None
    if memory:
        from diffkit.benchmarking.memory import allocated_memory, free_memory
        from diffkit.benchmarking.prediction import predict

        where = pick_device(device)
        peaks = predict(chosen, data, where)
        too_much = _too_much(peaks, free_memory(where)) if measure else None
        found = allocated_memory(chosen, where, plugin or ()) if measure and too_much is None else {}
        part = chosen.train.device_batch_size or chosen.train.batch_size
        title = f"memory at most, {where.type}: training {part} and sampling {chosen.sample.batch_size} images at once"
        tables.append(memory_table(peaks, found, title))
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # a pipe or a file takes lines of any length
        wide = console.options.update(width=10_000)
        console.width = max(console.measure(table, options=wide).maximum for table in tables)
    for table in tables:
        console.print(table)
    if too_much is not None:
        raise UserError(too_much)


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


def memory_table(peaks: dict[Job, Peak], measured: dict[Job, int], title: str) -> Table:
    """Lay out what memory is predicted to be for, in MiB, and what was measured of the whole, if it was."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", min_width=len(title))
    table.add_column("MiB")
    for job in peaks:
        table.add_column(job, justify="right")
    for part in dict.fromkeys(part for peak in peaks.values() for part in peak.parts):
        table.add_row(part, *(_mib(peak.parts.get(part, 0)) for peak in peaks.values()))
    table.add_section()
    table.add_row("predicted", *(_mib(peak.total) for peak in peaks.values()))
    if measured:
        table.add_row("measured", *(_mib(measured[job]) for job in peaks))
        table.add_row("predicted / measured", *(f"{peak.total / measured[job]:.2f}" for job, peak in peaks.items()))
    return table


LIMITS: dict[Job, str] = {"training": "train.device_batch_size", "sampling": "sample.batch_size"}
"""The setting that says how many images there are at once."""


def _too_much(peaks: dict[Job, Peak], free: int | None) -> str | None:
    """Say why memory is not measured: the machine would kill a process, and perhaps another one than this."""
    for job, peak in peaks.items():
        if free is not None and peak.total > free:
            needed = f"{job} needs {_mib(peak.total)} MiB, and {_mib(free)} MiB are free"
            return f"--measure: {needed}: lower {LIMITS[job]}"
    return None


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f}"
