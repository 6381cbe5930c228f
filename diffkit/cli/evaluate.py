"""``diffkit evaluate``."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffkit.cli.options import (
    BatchSize,
    Device,
    EmaLength,
    FeaturesKind,
    Force,
    ImageSeed,
    PluginFiles,
    ReferenceCount,
    RunPath,
    SampleOverrides,
    SplitName,
    WeightsKind,
)

if TYPE_CHECKING:
    from diffkit.data.base import Dataset, Split
    from diffkit.evaluating import Evaluation, Measures, Workers
    from diffkit.storage.runs import Weights


def command(
    run: RunPath = None,
    overrides: SampleOverrides = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="A metric, or its table; repeat it for several. All by default."),
    ] = None,
    features: FeaturesKind = None,
    count: Annotated[int, typer.Option(min=1, help="Number of images to sample.")] = 1000,
    split: SplitName = None,
    reference: ReferenceCount = None,
    seed: ImageSeed = 0,
    weights: WeightsKind = "ema",
    ema: EmaLength = None,
    batch_size: BatchSize = None,
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
    from diffkit.cli.common import chosen_weights, load_plugins, refuse_existing, run_and_overrides, write_new
    from diffkit.errors import UserError
    from diffkit.evaluating import Workers

    refuse_existing(out, force=force)
    load_plugins(plugin)
    run, overrides = run_and_overrides(run, overrides)
    which = chosen_weights(weights, ema)
    measures, chosen = chosen_measures(metric, features), _dataset(data)
    if chosen is not None and images is None:
        raise UserError("--data is for --images: what a model samples is compared with its own data set")
    with Workers.joined() as workers:
        if images is not None:
            found, about, head = _of_images(images, run, chosen, split, measures, reference, device, which)
        else:
            options = {"count": count, "batch_size": batch_size}
            found, about, head = _of_model(
                run, overrides, options, measures, seed, split, reference, device, which, workers
            )
        if not workers.is_first:
            return
        print(f"{head}\n{against(found.about)}\n{found.table()}")
        if out is not None:
            write_new(out, json.dumps({**about, **found.to_json()}, indent=2) + "\n", force=force)
            print(out)
        found.forget()


Report = tuple["Evaluation", dict[str, Any], str]
"""What was found, what else to say in JSON, and in the line above the table."""


def _of_images(
    images: Path,
    run: Path | None,
    chosen: Dataset | None,
    split: Split | None,
    measures: Measures,
    reference: int | None,
    device: str,
    weights: Weights,
) -> Report:
    from diffkit.cli.common import pick_device
    from diffkit.data.base import of_split
    from diffkit.evaluating import evaluate, read_images
    from diffkit.pipeline import Pipeline
    from diffkit.storage.runs import newest_run

    dataset = of_split(chosen, split) if chosen else Pipeline.load(run or newest_run(), weights).dataset(split)
    made = read_images(images, dataset.info())
    found = evaluate(made, dataset, measures, reference=reference, device=pick_device(device))
    return found, {"source": str(images)}, f"{images}: {found.about['images']['count']} images"


def _of_model(
    run: Path | None,
    overrides: list[str],
    options: Mapping[str, Any],
    measures: Measures,
    seed: int,
    split: Split | None,
    reference: int | None,
    device: str,
    weights: Weights,
    workers: Workers,
) -> Report:
    from diffkit.cli.common import pick_device, weights_name
    from diffkit.evaluating import about_model, evaluate_model
    from diffkit.pipeline import Pipeline
    from diffkit.sampling import run_of, sample_settings
    from diffkit.storage.files import sha256
    from diffkit.storage.runs import find_weights, newest_run

    source = run or newest_run()
    pipeline = Pipeline.load(source, weights, pick_device(workers.device(device)))
    settings = sample_settings(pipeline.recipe, options, overrides)
    found = evaluate_model(
        pipeline,
        settings,
        measures,
        seed=seed,
        split=split,
        reference=reference,
        workers=workers,
        folder=run_of(source) / "evaluations",
    )
    # what is made of snapshots has no file
    digest = sha256(find_weights(source, weights)) if isinstance(weights, str) else about_model(pipeline)["sha256"]
    about = {"source": str(source), "weights": weights, "sha256": digest}
    head = f"{weights_name(weights)} weights, seed {seed}"
    if "sampling" in found.about:
        calls = found.about["sampling"]["network_calls"]
        head = f"{settings.count} images, {head}, {settings.sampler.kind} in {calls} network calls"
    return found, about, f"{source}: {head}"


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
    reference = about["reference"]
    split = reference["dataset"].get("split")
    dataset = reference["dataset"]["kind"] + (f" ({split})" if split else "")
    if "features" not in about:
        return f"images of {dataset}"
    features = about["features"]
    digest = f", SHA-256 {features['sha256'][:12]}" if features["sha256"] else ""
    names = reference["accuracy"]
    right = "" if names is None else f", right for {names:.2%} of these"
    dimensions = f"{features['dimensions']} features of {features['kind']}{digest}{right}"
    return f"against {reference['count']} images of {dataset}, {dimensions}"
