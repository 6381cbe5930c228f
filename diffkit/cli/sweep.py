"""``diffkit sweep``."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffkit.cli.options import (
    BatchSize,
    Device,
    FeaturesKind,
    ImageSeed,
    PluginFiles,
    ReferenceCount,
    RunPath,
    SampleOverrides,
    SplitName,
)
from diffkit.errors import Problem, RecipeError, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from diffkit.storage.runs import Weights
    from diffkit.sweeping import Advice, Found, Plan


def command(
    run: RunPath = None,
    overrides: SampleOverrides = None,
    samplers: Annotated[
        str, typer.Option(metavar="KIND,...", help="Samplers, each a kind or its table.")
    ] = "ddim,dpmpp_2m,unipc",
    steps: Annotated[str, typer.Option(metavar="N,...", help="Numbers of steps.")] = "5,10,20,50",
    guidance: Annotated[
        str | None, typer.Option(metavar="W,...", help="Weights of guidance; the recipe's by default.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of images to sample in each way.")] = 1000,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="A metric, or its table; repeat it for several. fid and kid by default."),
    ] = None,
    features: FeaturesKind = None,
    split: SplitName = None,
    reference: ReferenceCount = None,
    seed: ImageSeed = 0,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="ema,raw",
            help="Averaged weights, the last ones, or both to compare them; ema by default, without --ema.",
        ),
    ] = None,
    ema: Annotated[
        str | None,
        typer.Option(metavar="LENGTH,...", help="Lengths of averages of the weights, made of the run's snapshots."),
    ] = None,
    batch_size: BatchSize = None,
    device: Device = "auto",
    plugin: PluginFiles = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Where all is kept; RUN/sweeps by default."),
    ] = None,
) -> None:
    """Quality against network calls: samples a model in many ways, evaluates each, and recommends one.

    What is done is kept: the same command goes on where it was interrupted, and a larger sweep takes over the cells of
    a smaller one.
    """
    from diffkit.cli.common import load_plugins, pick_device, run_and_overrides, weights_name
    from diffkit.cli.evaluate import against, chosen_measures
    from diffkit.evaluating import Reference, Workers
    from diffkit.pipeline import Pipeline
    from diffkit.sampling import run_of
    from diffkit.storage.files import write_atomically
    from diffkit.storage.runs import newest_run
    from diffkit.sweeping import advise, plan, sweep, to_json

    kinds, numbers, guides, chosen = _lists(samplers, steps, guidance, weights, ema)
    load_plugins(plugin)
    run, overrides = run_and_overrides(run, overrides)
    measures = chosen_measures(metric or ["fid", "kid"], features)
    source = run or newest_run()
    with Workers.joined() as workers:
        on = pick_device(workers.device(device))
        models = {weights_name(each): Pipeline.load(source, each, on) for each in chosen}
        planned = plan(models, kinds, numbers, guides, {"count": count, "batch_size": batch_size}, overrides)
        draws = workers.is_first and _announce(planned)
        names = list(models)
        real = Reference(models[names[0]].dataset(split), measures, count=reference, device=on, workers=workers)
        folder = out or run_of(source) / "sweeps"
        found = sweep(models, planned.cells, real, folder, seed=seed)
        if not workers.is_first:
            return
    advice = advise(found)
    title = f"{source}: {count} images each, {' and '.join(names)} weights, seed {seed}"
    print(f"{title}\n{against(found[0].report)}")
    _print(_table(found, advice))
    if advice is None:
        print("nothing is recommended, as no score's noise is known: add --metric kid")
    else:
        print(f"recommended: {advice.found.cell.name} ({advice.found.cell.cost}): {advice.reason}")
    report = {"source": str(source), "weights": ",".join(names), **to_json(found, advice, planned.left_out)}
    file = _write(folder, json.dumps(report, indent=2) + "\n")
    print(file)
    picture = file.with_suffix(".png")
    if draws and not picture.exists():
        write_atomically(picture, _picture(found, advice, title))
    if picture.exists():
        print(picture)


def _announce(planned: Plan) -> bool:
    """Say what is left out, and whether there will be a picture; return that."""
    for reason in dict.fromkeys(planned.left_out.values()):
        names = ", ".join(name for name, its in planned.left_out.items() if its == reason)
        print(f"Left out: {names}: {reason}", file=sys.stderr)
    try:
        importlib.import_module("diffkit.plotting.canvas")
    except UserError as error:
        print(f"Warning: no picture will be drawn: {error}", file=sys.stderr)
        return False
    return True


def _lists(
    samplers: str, steps: str, guidance: str | None, weights: str | None, ema: str | None
) -> tuple[list[Any], list[int], list[float], list[Weights]]:
    """Return what the options list.

    Raises:
        UserError: With all that can not be read.
    """
    problems: list[Problem] = []

    def read(name: str, text: str | None, of_one: Callable[[str], Any], wanted: str) -> list[Any]:
        found = []
        for item in _items(text) if text is not None else ():
            try:
                found.append(of_one(item))
            except ValueError:
                problems.append(Problem(f"--{name}", f"should be {wanted}, with commas between them", item))
        return list(dict.fromkeys(found)) if name != "samplers" else found

    if weights is None and ema is None:
        weights = "ema"
    chosen = (
        read("samplers", samplers, _value, "kinds of samplers, or their tables"),
        read("steps", steps, _steps, "whole numbers of at least 1"),
        read("guidance", guidance, float, "numbers"),
        [*read("weights", weights, _weights, "ema, raw or both"), *read("ema", ema, float, "lengths of averages")],
    )
    if problems:
        raise RecipeError("settings of the sweep", problems)
    return chosen


def _items(text: str) -> list[str]:
    """Return what stands between commas, those within a table or an array aside."""
    items, depth = [""], 0
    for letter in text:
        depth += (letter in "{[") - (letter in "}]")
        if letter == "," and depth == 0:
            items.append("")
        else:
            items[-1] += letter
    return [item.strip() for item in items]


def _value(text: str) -> Any:
    from diffkit.recipe.overrides import apply_override

    if not text:
        raise ValueError
    table: dict[str, Any] = {}
    apply_override(table, f"sampler={text}")
    return table["sampler"]


def _weights(text: str) -> str:
    if text not in ("ema", "raw"):
        raise ValueError
    return text


def _steps(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _table(found: Sequence[Found], advice: Advice | None) -> Table:
    """Return the cells, cheapest first, with all scores."""
    from rich import box
    from rich.table import Table

    guided = len({one.cell.settings.guidance.weight for one in found}) > 1
    several = len({one.cell.weights for one in found}) > 1
    twice = any(one.cell.evaluations != one.cell.calls for one in found)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("sampler", no_wrap=True)
    names = [*found[0].report["scores"]]
    heads = [
        *(["weights"] if several else []),
        "steps",
        *(["guidance"] if guided else []),
        "calls",
        *(["evaluations"] if twice else []),
        *names,
        "s",
    ]
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for one in sorted(found, key=lambda one: (one.cell.evaluations, one.cell.name)):
        settings, scores = one.cell.settings, one.report["scores"]
        mark = ""
        if advice is not None:
            mark = "recommended" if one is advice.found else "≈ best" if one in advice.same else ""
        table.add_row(
            one.cell.sampler,
            *([one.cell.weights] if several else []),
            str(settings.steps),
            *([f"{settings.guidance.weight:g}"] if guided else []),
            str(one.cell.calls),
            *([str(one.cell.evaluations)] if twice else []),
            *(_number(scores[name]) for name in names),
            f"{one.report['seconds']:.1f}",
            mark,
        )
    return table


def _number(score: Mapping[str, Any]) -> str:
    error = score["standard_error"]
    return f"{score['value']:.4g}" + ("" if error is None else f" ± {error:.2g}")


def _print(table: Table) -> None:
    """Print a table, as wide as the terminal; whole, where there is none."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 1000)
    with console.capture() as text:
        console.print(table)
    print("\n".join(line.rstrip() for line in text.get().splitlines()))


def _write(folder: Path, content: str) -> Path:
    """Write a new ``sweep-N.json``, unless the same is there already."""
    from diffkit.storage.files import write_atomically

    number = 1
    while (file := folder / f"sweep-{number}.json").exists():
        if file.read_text(encoding="utf-8") == content:
            return file
        number += 1
    write_atomically(file, content)
    return file


def _picture(found: Sequence[Found], advice: Advice | None, title: str) -> bytes:
    from diffkit.plotting.canvas import to_bytes
    from diffkit.plotting.quality import Point, draw_quality

    def point(one: Found, score: str) -> Point:
        its = one.report["scores"][score]
        return Point(one.cell.evaluations, its["value"], its["standard_error"])

    every = list(found[0].report["scores"])
    several = len({one.cell.weights for one in found}) > 1
    scores: dict[str, dict[str, list[Point]]] = {}
    for name in [name for name in ("fid", "kid") if name in every] or every[:2]:
        lines: dict[str, list[Point]] = {}
        for one in found:
            weight = one.cell.settings.guidance.weight
            label = one.cell.sampler + ("" if weight == 1 else f", guidance {weight:g}")
            label += f", {one.cell.weights}" if several else ""
            lines.setdefault(label, []).append(point(one, name))
        scores[name] = lines
    rings = {} if advice is None else {name: point(advice.found, name) for name in scores}
    return to_bytes(draw_quality(scores, rings, title), "png")
