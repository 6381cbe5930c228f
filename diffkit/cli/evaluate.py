"""``diffkit evaluate``."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from diffkit.cli.options import Device, FeaturesKind, Force, PluginFiles, ReferenceCount, SplitName

if TYPE_CHECKING:
    from diffkit.data.base import Dataset
    from diffkit.evaluating import Measures


def command(
    run: Annotated[
        Path | None, typer.Argument(help="Run folder, checkpoint folder or weights file; the newest run by default.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings of the recipe's [sample] table, as key=value.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="A metric, or its table; repeat it for several. All by default."),
    ] = None,
    features: FeaturesKind = None,
    count: Annotated[int, typer.Option(min=1, help="Number of images to sample.")] = 1000,
    split: SplitName = None,
    reference: ReferenceCount = None,
    seed: Annotated[int, typer.Option(min=0, help="Image i depends on the seed and on i only.")] = 0,
    weights: Annotated[Literal["ema", "raw"], typer.Option(help="Averaged or last weights.")] = "ema",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Number of images at once.")] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Pictures or an npz file to evaluate; nothing is sampled then."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="KIND", help="Data set, or its table, that the images are compared with, in place of the model's."
        ),
    ] = None,
    device: Device = "auto",
    plugin: PluginFiles = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write all there is to know to a JSON file too.")
    ] = None,
    force: Force = False,
) -> None:
    """How good a model's images are: they are sampled and compared with those of its data set."""
    from diffkit.cli.common import load_plugins, pick_device, refuse_existing, run_and_overrides, write_new
    from diffkit.data.base import of_split
    from diffkit.errors import UserError
    from diffkit.evaluating import evaluate, evaluate_model, read_images
    from diffkit.pipeline import Pipeline
    from diffkit.sampling import sample_settings
    from diffkit.storage.files import sha256
    from diffkit.storage.runs import find_weights, newest_run

    refuse_existing(out, force=force)
    load_plugins(plugin)
    run, overrides = run_and_overrides(run, overrides)
    measures, chosen = chosen_measures(metric, features), _dataset(data)
    if chosen is not None and images is None:
        raise UserError("--data is for --images: what a model samples is compared with its own data set")
    on = pick_device(device)
    if images is not None:
        dataset = of_split(chosen, split) if chosen else Pipeline.load(run or newest_run(), weights).dataset(split)
        made = read_images(images, dataset.info())
        found = evaluate(made, dataset, measures, reference=reference, device=on)
        about: dict[str, Any] = {"source": str(images)}
        head = f"{images}: {found.about['images']['count']} images"
    else:
        source = run or newest_run()
        pipeline = Pipeline.load(source, weights, on)
        settings = sample_settings(pipeline.recipe, {"count": count, "batch_size": batch_size}, overrides)
        found = evaluate_model(pipeline, settings, measures, seed=seed, split=split, reference=reference)
        about = {"source": str(source), "weights": weights, "sha256": sha256(find_weights(source, weights))}
        calls = found.about["sampling"]["network_calls"]
        way = f"{settings.sampler.kind} in {calls} network calls"
        head = f"{source}: {settings.count} images, {weights} weights, seed {seed}, {way}"
    print(f"{head}\nagainst {against(found.about)}\n{found.table()}")
    if out is not None:
        write_new(out, json.dumps({**about, **found.to_json()}, indent=2) + "\n", force=force)
        print(out)


def chosen_measures(metrics: list[str] | None, features: str | None) -> Measures:
    """Return what is to be measured, as the options of a command line say."""
    from diffkit.evaluating import Measures
    from diffkit.recipe.overrides import apply_override

    table: dict[str, Any] = {"metrics": [None] * len(metrics)} if metrics else {}
    for number, metric in enumerate(metrics or ()):
        apply_override(table, f"metrics.{number}={metric}")
    if features is not None:
        apply_override(table, f"features={features}")
    with _said():
        return Measures.model_validate(table)


def _dataset(data: str | None) -> Dataset | None:
    from diffkit.data.base import Dataset
    from diffkit.recipe.overrides import apply_override

    if data is None:
        return None
    table: dict[str, Any] = {}
    apply_override(table, f"data={data}")
    with _said():
        return Dataset.choose(table["data"])


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Say what is wrong with settings as with a recipe's."""
    from pydantic import ValidationError

    from diffkit.errors import RecipeError
    from diffkit.spec import problems_of

    try:
        yield
    except ValidationError as error:
        raise RecipeError("settings of the evaluation", problems_of(error)) from None


def against(about: Mapping[str, Any]) -> str:
    """Say what the images were compared with, and how."""
    reference, features = about["reference"], about["features"]
    split = reference["dataset"].get("split")
    part = f" ({split})" if split else ""
    digest = f", SHA-256 {features['sha256'][:12]}" if features["sha256"] else ""
    names = reference["accuracy"]
    right = "" if names is None else f", right for {names:.2%} of these"
    dimensions = f"{features['dimensions']} features of {features['kind']}{digest}{right}"
    return f"{reference['count']} images of {reference['dataset']['kind']}{part}, {dimensions}"
