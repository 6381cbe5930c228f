"""How good a model is: samples and bits per dimension, by several processes where there are some."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffkit import __version__
from diffkit.data.base import Images, Split
from diffkit.data.pixels import to_uint8, to_unit
from diffkit.distributed import Workers
from diffkit.errors import Interrupted
from diffkit.evaluating.describe import about_model, about_sampling, digest_of, identity_of
from diffkit.evaluating.kept import Kept, Rows
from diffkit.evaluating.measures import Evaluation, Measures
from diffkit.evaluating.reference import Reference
from diffkit.evaluation.base import ModelMetric, Score
from diffkit.evaluation.features import AT_ONCE
from diffkit.pipeline import Pipeline
from diffkit.random import numpy_generator
from diffkit.recipe.tables import Sample


@dataclass(frozen=True)
class Given:
    """What samples are made from, where the model needs more than noise: the data set's own.

    Sample i is made from what belongs to the (i mod M)-th of M real images, which are in an order by chance.

    Attributes:
        condition: Images that the model makes images from: uint8 ``[M, C', h, w]``.
        vectors: Vectors that condition it: ``[M, V]``.
        labels: The classes ``[M]`` of the real images, where a model of classes takes one of the above too.
    """

    condition: Tensor | None = None
    vectors: Tensor | None = None
    labels: Tensor | None = None

    @classmethod
    def of(cls, pipeline: Pipeline, settings: Sample, images: Images, numbers: Tensor) -> Given:
        """Take from a data set what a model needs; nothing where it makes images from noise and a class at most.

        Args:
            pipeline: The model.
            settings: How it is sampled.
            images: The data set.
            numbers: Which of its images.
        """
        kind, data = pipeline.recipe.objective.condition, pipeline.data
        conditioned = kind.shape(*data.shape)[0] > 0
        if not conditioned and data.vector == 0:
            return cls()
        order = torch.from_numpy(numpy_generator(0, "conditions").permutation(len(numbers)))
        rows = numbers[order][: settings.count]
        left = [to_uint8(kind.reduce(to_unit(images.pixels(part).cpu()))) for part in torch.split(rows, AT_ONCE)]
        by_class = pipeline.labels_of(None, range(0), settings.guidance) is not None
        return cls(
            condition=torch.cat(left) if conditioned else None,
            vectors=images.vectors(rows) if data.vector else None,
            labels=images.labels(rows) if by_class else None,
        )

    def names(self) -> list[str]:
        """Return what is given."""
        return [name for name, value in vars(self).items() if value is not None]


def evaluate_model(
    pipeline: Pipeline,
    settings: Sample,
    measures: Measures | None = None,
    *,
    seed: int = 0,
    split: Split | None = None,
    reference: int | None = None,
    workers: Workers | None = None,
    folder: Path | None = None,
) -> Evaluation:
    """Sample images and compare them with those of the model's data set; nothing but their features is kept.

    A model that makes images from others, or from vectors, is given those of the data set's own images. Metrics of the
    model itself are evaluated too.

    Args:
        pipeline: The model.
        settings: How to sample; `settings.count` says how many.
        measures: What is measured.
        seed: Image i depends on it and on i only.
        split: The part of the data set; by default the one for testing, where there is one.
        reference: Number of the data set's images, always the same ones; all by default.
        workers: The processes that share the work; all are to call this, and find the same.
        folder: Where what is found of single images is kept, under a hash of all that has a part in it, to go on from
            if this is interrupted or killed. `Evaluation.forget` deletes it. Nothing is kept by default.

    Raises:
        UserError: If the model cannot be sampled or evaluated so, or as `evaluate`.
        Interrupted: On Ctrl-C, where there is a folder.
    """
    workers = workers or Workers()
    measures = (measures or Measures()).settled(pipeline)
    if measures.of_features:
        pipeline.check(settings)  # before features, which may take minutes
    dataset = pipeline.dataset(split)
    images = dataset.open()
    chosen = [(metric, metric.images(images, seed)) for metric in measures.of_model]
    identity = {"diffkit": __version__, "model": about_model(pipeline), "seed": seed}
    about: dict[str, Any] = {"reference": {"dataset": dataset.model_dump(mode="json")}, "metrics": measures.dumped()}
    scores: dict[str, Score] = {}
    used: list[Path] = []

    def place(**what: Any) -> Path | None:
        if folder is None:
            return None
        used.append(folder / digest_of({**identity, **what})[:32])
        return used[-1]

    try:
        if measures.of_features:
            real = Reference(dataset, measures, count=reference, device=pipeline.device, workers=workers)
            stated = real.about()
            real.extract(place(**stated))
            given = Given.of(pipeline, settings, images, real.numbers)
            at = place(**stated, sample={**identity_of(settings), "count": None})  # image i is the same for any count
            made = sample_and_see(pipeline, settings, real, seed=seed, given=given, folder=at)
            if workers.is_first:
                found = real.compare(made)
                scores |= found.scores
                about = {"sampling": about_sampling(pipeline, settings, seed, given.names()), **found.about}
        for metric, numbers in chosen:
            at = place(data=dataset.model_dump(mode="json"), metric=metric.model_dump(mode="json"))
            values = _of_images(
                metric, pipeline, images, numbers, seed, settings.batch_size, Kept(at, workers), workers
            )
            if workers.is_first:
                scores |= metric.scores(values)
    except KeyboardInterrupt:
        if folder is None:
            raise
        raise Interrupted(
            f"interrupted: what was found is kept in {folder}; the same command goes on from it"
        ) from None
    return _told_to_all(Evaluation(scores, about, tuple(used)), workers)


def sample_and_see(
    pipeline: Pipeline,
    settings: Sample,
    reference: Reference,
    *,
    seed: int = 0,
    given: Given | None = None,
    folder: Path | None = None,
    on_call: Callable[[int], None] | None = None,
) -> Rows:
    """Sample images, `settings.count` of them, and return what is kept of them; of all processes, only on the first.

    A class-conditional model gets the classes in turn.

    Args:
        pipeline: The model.
        settings: How to sample.
        reference: What the images will be compared with.
        seed: Image i depends on it and on i only.
        given: What they are made from.
        folder: Where what is found is kept, to go on from.
        on_call: Told the number of images after each call of the network; by default a progress bar is shown.

    Raises:
        UserError: If the model cannot be sampled so.
    """
    given = given or Given()
    kept = Kept(folder, reference.workers)
    missing = kept.missing(settings.count, settings.batch_size)
    calls = settings.sampler.calls(settings.spacing.levels(pipeline.recipe.process, settings.steps))
    with contextlib.ExitStack() as stack:
        if on_call is None:
            on_call = stack.enter_context(
                reference.workers.progress_bar("sampling", calls * sum(len(numbers) for numbers in missing))
            )
        for numbers in missing:
            for batch in pipeline.batches(
                len(numbers),
                settings,
                first=numbers.start,
                seed=seed,
                label=given.labels,
                condition=given.condition,
                vectors=given.vectors,
                on_call=on_call,
            ):
                kept.add(batch.numbers, reference.see(batch.images, batch.labels))
    return kept.gather(settings.count)


def _of_images(
    metric: ModelMetric,
    pipeline: Pipeline,
    images: Images,
    numbers: list[int],
    seed: int,
    batch_size: int,
    kept: Kept,
    workers: Workers,
) -> Tensor:
    """Return a metric's value for each of some real images ``[n]``; of all processes, only on the first."""
    missing = kept.missing(len(numbers), batch_size)
    total = metric.calls(pipeline) * sum(len(part) for part in missing)
    with workers.progress_bar(metric.kind_name(), total) as advance:
        for part in missing:
            chosen = numbers[part.start : part.stop]
            kept.add(part, {"value": metric.of_images(pipeline, images, chosen, seed, advance)})
    return kept.gather(len(numbers)).get("value", torch.empty(0))


def _told_to_all(found: Evaluation, workers: Workers) -> Evaluation:
    """Return what the first process found, on all of them."""
    whole = json.loads(workers.from_first(json.dumps(found.to_json()).encode()))
    if workers.is_first:
        return found
    scores = {name: Score(score["value"], score["standard_error"]) for name, score in whole.pop("scores").items()}
    return Evaluation(scores, whole)
