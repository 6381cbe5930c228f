"""``diffkit bench``."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffkit.cli.options import AsJson, Device, Overrides, PluginFiles, RecipeName

if TYPE_CHECKING:
    from rich.table import Table

    from diffkit.benchmarking.breakdown import Part
    from diffkit.benchmarking.clock import Spread
    from diffkit.benchmarking.measure import Against, Report, Speed


def command(
    recipe: RecipeName,
    overrides: Overrides = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="LIBRARY",
            help="diffusers or lucidrains: measure it too, with the same network, batch, optimizer and average.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images of a step and of a call; by default those of the recipe's step.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each thing is timed, all in turn.")] = 10,
    threads: Annotated[int | None, typer.Option(min=1, help="Number of threads; torch's choice by default.")] = None,
    depth: Annotated[int, typer.Option(min=1, help="How far parts of the network are told apart.")] = 2,
    device: Device = "auto",
    plugin: PluginFiles = None,
    as_json: AsJson = False,
) -> None:
    """Measure how fast a recipe trains and samples, and what it takes.

    Images per second, FLOPs, the share of what a matrix product gets out of the machine, memory, and where the time of
    a training step goes. The images are random, so no data set is needed. Nothing is written.
    """
    import torch

    from diffkit.benchmarking.measure import benchmark
    from diffkit.cli.common import load_plugins, pick_device

    changes = list(overrides or ())
    if batch_size is not None:
        changes.append(f"train.batch_size={batch_size}")
    if threads is not None:
        torch.set_num_threads(threads)
    chosen = load_plugins(plugin).open_recipe(recipe, changes)
    report = benchmark(
        chosen,
        device=pick_device(device),
        rounds=rounds,
        depth=depth,
        against=against,
        plugins=plugin or (),
        tell=_tell if sys.stderr.isatty() else None,
    )
    _tell("")
    if as_json:
        print(json.dumps(to_json(report), indent=2))
    else:
        _print(report)


def to_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON has it; spreads are the median and the quartiles of the rounds."""
    return dataclasses.asdict(report)


def _tell(text: str) -> None:
    """Show what is being done, in one line that the next one overwrites."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def _print(report: Report) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200)
    print(
        f"{report.recipe}: {report.parameters:,} parameters, batch {report.batch_size}, {report.precision}, "
        f"{report.device}, threads: {report.threads}, torch {report.torch}, rounds: {report.rounds}"
    )
    product = _spread(report.matrix_product, 1e-9)
    print(f"matrix product of {report.matrix_size}x{report.matrix_size}: {product} GFLOP/s")
    tables = {"one step of training, one call of the network in sampling": _speeds(report)}
    if report.against is not None:
        against = report.against
        apart = f"outputs for the same weights: {against.difference:.1g} apart"
        tables[f"diffkit against {against.name} {against.version} ({apart})"] = _ratios(against)
    tables |= {"where a training step goes, by part": _parts(report), "by kind of operation": _kinds(report)}
    for title, table in tables.items():
        print(f"\n{title}")
        with console.capture() as text:
            console.print(table)
        print("\n".join(line.rstrip() for line in text.get().splitlines()))


def _table(first: str, *others: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(first, no_wrap=True)
    for other in others:
        table.add_column(other, justify="right", no_wrap=True)
    return table


def _speeds(report: Report) -> Table:
    table = _table("", "seconds", "images/s", "GFLOP", "of the product", "memory")
    for job, flops in report.flops.items():
        found: dict[str, Speed] = {"diffkit": report.speed[job]}
        if report.against is not None:
            found[report.against.name] = report.against.speed[job]
        for name, speed in found.items():
            memory = "-" if speed.memory is None else f"{speed.memory / 2**20:,.0f} MiB"
            table.add_row(
                f"{job}, {name}",
                _spread(speed.wall),
                _spread(speed.images_per_second),
                f"{flops / 1e9:.4g}",
                _spread(speed.share, 100) + " %",
                memory,
            )
    return table


def _ratios(against: Against) -> Table:
    table = _table("", "times as fast", "by processor time", "memory")
    for job, ratio in against.ratio.items():
        memory = "-" if ratio.memory is None else f"{ratio.memory:.2f} times"
        table.add_row(job, _spread(ratio.wall), _spread(ratio.processor), memory)
    return table


def _parts(report: Report) -> Table:
    table = _table("part", "forward ms", "backward ms", "of the step", "GFLOP forward", "of the product")
    whole = report.breakdown.seconds
    for name, part in report.breakdown.parts.items():
        rate = ["", ""]
        if name in report.part_flops:
            rate = [f"{report.part_flops[name] / 1e9:.3g}", f"{100 * report.part_share[name]:.0f} %"]
        table.add_row(name, *_times(part, whole), *rate)
    return table


def _kinds(report: Report) -> Table:
    table = _table("kind", "forward ms", "backward ms", "of the step")
    whole = report.breakdown.seconds
    for name, part in report.breakdown.kinds.items():
        table.add_row(name, *_times(part, whole))
    return table


def _times(part: Part, whole: float) -> list[str]:
    backward = f"{1e3 * part.backward:.1f}" if part.backward else ""
    return [f"{1e3 * part.forward:.1f}", backward, f"{100 * part.seconds / whole:.1f} %"]


def _spread(spread: Spread, factor: float = 1.0) -> str:
    return f"{factor * spread.median:.3g} ({factor * spread.low:.3g} to {factor * spread.high:.3g})"
