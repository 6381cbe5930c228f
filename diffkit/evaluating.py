"""How good a model's images are: samples and real images, their features, and all metrics at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from diffkit.data.base import DataInfo, Dataset, Images, Split
from diffkit.data.decode import SUFFIXES, UnreadablePictureError, decode_as_is
from diffkit.data.progress import progress_bar
from diffkit.errors import UserError
from diffkit.evaluation.base import Metric, Score
from diffkit.evaluation.features import AT_ONCE, Extractor, Features
from diffkit.pipeline import Pipeline
from diffkit.random import numpy_generator
from diffkit.recipe.tables import Sample
from diffkit.spec import Many, Spec

Part = tuple[Tensor, Tensor | None]
"""Some images, uint8 ``[n, C, H, W]``, and the labels ``[n]`` that they were made for, if any."""


class Measures(Spec):
    """What is measured, and on which features."""

    metrics: Many[Metric] = Field(
        ("fid", "kid", "precision_recall", "density_coverage"), min_length=1, validate_default=True
    )
    """The metrics."""
    features: Features | None = None
    """What they compare; by default `classifier` where the data set has labels, else `inception`."""

    def features_for(self, data: DataInfo) -> Features:
        """Return the features to be used for a data set."""
        return self.features or Features.choose("classifier" if data.classes else "inception")


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        scores: The scores by name. `accuracy` is there where images were made for classes, and the features know these.
        about: What else has to be known to compare them: features and reference, with hashes, and numbers of images.
    """

    scores: dict[str, Score]
    about: dict[str, Any]

    def table(self) -> str:
        """Return the scores as text, one a line."""
        width = max(map(len, self.scores))
        return "\n".join(
            f"  {name:{width}} {score.value:12.5g}" + ("" if score.error is None else f" ± {score.error:.2g}")
            for name, score in self.scores.items()
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        scores = {name: {"value": s.value, "standard_error": s.error} for name, s in self.scores.items()}
        return {"scores": scores, **self.about}


def evaluate_model(
    pipeline: Pipeline,
    settings: Sample,
    measures: Measures | None = None,
    *,
    seed: int = 0,
    split: Split | None = None,
    reference: int | None = None,
) -> Evaluation:
    """Sample images and compare them with those of the model's data set; nothing but their features is kept.

    Args:
        pipeline: The model.
        settings: How to sample; `settings.count` says how many.
        measures: What is measured.
        seed: Image i depends on it and on i only.
        split: The part of the data set; by default the one for testing, where there is one.
        reference: Number of the data set's images, always the same ones; all by default.

    Raises:
        UserError: If the model cannot be sampled so, or as `evaluate`.
    """
    pipeline.check(settings)  # before features, which may take minutes
    pipeline.check_condition(None)
    pipeline.check_vectors(None)
    about = about_sampling(pipeline, settings, seed)
    made = sampled(pipeline, settings, seed)
    dataset = pipeline.dataset(split)
    found = evaluate(made, dataset, measures, reference=reference, device=pipeline.device)
    return Evaluation(found.scores, {"sampling": about, **found.about})


def evaluate(
    made: Iterable[Part],
    dataset: Dataset,
    measures: Measures | None = None,
    *,
    reference: int | None = None,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Compare images with those of a data set, in one pass over both.

    Args:
        made: The images, in parts; asked for once the features of the data set's images are known.
        dataset: The data set, as the part of it that is compared with.
        measures: What is measured.
        reference: Number of the data set's images, always the same ones; all by default.
        device: Where features are extracted.

    Raises:
        UserError: If features cannot be had, there are too few images, or they are of different sizes.
    """
    measures = measures or Measures()
    data, images = dataset.info(), dataset.open()
    numbers = _chosen(images, reference)
    features = measures.features_for(data)
    extractor = features.prepare(dataset, device)
    with progress_bar("features of the data set", total=len(numbers)) as advance:
        real = _Gathered(extractor, data)
        for rows in torch.split(numbers, AT_ONCE):
            real.add(images.pixels(rows).cpu(), images.labels(rows))
            advance(len(rows))
    generated = _Gathered(extractor, data)
    for pixels, labels in made:
        generated.add(pixels, labels)
    scores: dict[str, Score] = {}
    for metric in measures.metrics:
        try:
            scores |= metric.scores(generated.features, real.features)
        except ValueError as error:
            raise UserError(f"metric = {metric.kind}: {error}") from None
    if (accuracy := generated.accuracy()) is not None:
        scores["accuracy"] = accuracy
    of_real = real.accuracy()
    return Evaluation(
        scores,
        {
            "images": {"count": len(generated), "sha256": generated.sha256},
            "features": {**features.about(extractor), "dimensions": real.features.shape[1]},
            "reference": {
                "dataset": dataset.model_dump(mode="json"),
                "count": len(real),
                "sha256": real.sha256,
                "accuracy": None if of_real is None else of_real.value,
            },
            "metrics": [metric.model_dump(mode="json") for metric in measures.metrics],
        },
    )


class _Gathered:
    """Features, labels and hash of images that come in parts."""

    def __init__(self, extractor: Extractor, data: DataInfo) -> None:
        self._extractor, self._data = extractor, data
        self._features: list[Tensor] = []
        self._right: list[Tensor] = []
        self._hash = hashlib.sha256()

    def add(self, pixels: Tensor, labels: Tensor | None) -> None:
        if pixels.shape[1:] != self._data.shape:
            sizes = ("x".join(map(str, shape)) for shape in (pixels.shape[1:], self._data.shape))
            raise UserError(
                "images of {} cannot be compared with a data set of {} (channels x height x width)".format(*sizes)
            )
        features = self._extractor.extract(pixels)
        classes = self._extractor.classes(features)
        self._features.append(features)
        if labels is not None and classes is not None:
            self._right.append(classes == labels.cpu())
        self._hash.update(pixels.contiguous().numpy().tobytes())

    def __len__(self) -> int:
        return sum(map(len, self._features))

    @property
    def features(self) -> Tensor:
        return torch.cat(self._features)

    @property
    def sha256(self) -> str:
        """The hash of all pixels, whatever the parts were."""
        return self._hash.hexdigest()

    def accuracy(self) -> Score | None:
        """Return which part is of the class that it is labelled with."""
        if not self._right:
            return None
        right = torch.cat(self._right).to(torch.float64)
        part = right.mean().item()
        return Score(part, (part * (1 - part) / len(right)) ** 0.5)


def _chosen(images: Images, count: int | None) -> Tensor:
    if count is not None and count > len(images):
        raise UserError(f"reference = {count}: there are {len(images)} images")
    if count is None:
        return torch.arange(len(images))
    # by chance, since a data set may be in the order of its classes
    return torch.from_numpy(numpy_generator(0, "reference").permutation(len(images))[:count]).sort().values


def sampled(pipeline: Pipeline, settings: Sample, seed: int = 0) -> Iterator[Part]:
    """Sample images, `settings.count` of them, with a progress bar. A class-conditional model gets the classes in turn.

    Args:
        pipeline: The model.
        settings: How to sample.
        seed: Image i depends on it and on i only.

    Raises:
        UserError: If the model cannot be sampled so.
    """
    calls = settings.sampler.calls(settings.spacing.levels(pipeline.recipe.process, settings.steps))
    with progress_bar("sampling", total=settings.count * calls) as advance:
        for batch in pipeline.batches(settings.count, settings, seed=seed, on_call=advance):
            yield batch.images, batch.labels


def about_sampling(pipeline: Pipeline, settings: Sample, seed: int) -> dict[str, Any]:
    """Return how images are sampled, as what JSON can hold: settings, the levels
    that are visited before the clean end, and the network calls for each image."""
    levels = settings.spacing.levels(pipeline.recipe.process, settings.steps)
    called = settings.sampler.levels_called(levels)
    return {
        "seed": seed,
        "sample": settings.model_dump(mode="json"),
        "levels": [{"time": at.time, "alpha": at.alpha, "sigma": at.sigma} for at in levels[:-1]],
        "network_calls": len(called),
        "network_evaluations": sum(settings.guidance.evaluations(level) for level in called),
    }


def read_images(path: Path, data: DataInfo) -> Iterator[Part]:
    """Read images that were sampled, by diffkit or by others.

    Args:
        path: A folder of pictures, or with an `images.npz`, as `diffkit sample` writes it; or an npz file with ``images
            [N, H, W, C]`` in uint8, and ``labels [N]`` where known. A folder's `grid.png` is passed over.
        data: The data set that they are for.

    Raises:
        UserError: If there are none, or one cannot be read or is of another size.
    """
    archive = path / "images.npz" if path.is_dir() else path
    if archive.is_file():
        yield _read_npz(archive)
        return
    files = sorted(_pictures(path))
    if not files:
        raise UserError(f"images = {path}: there are no pictures, and no images.npz")
    with progress_bar("reading", total=len(files)) as advance:
        for start in range(0, len(files), AT_ONCE):
            part = [_read_picture(file, data) for file in files[start : start + AT_ONCE]]
            yield torch.from_numpy(np.stack(part)), None
            advance(len(part))


def _pictures(folder: Path) -> Sequence[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return [file for file in found if file.suffix.lower() in SUFFIXES and file.name != "grid.png"]


def _read_picture(file: Path, data: DataInfo) -> NDArray[np.uint8]:
    try:
        return decode_as_is(file, (data.height, data.width), data.channels)
    except UnreadablePictureError as error:
        wanted = f"{data.height}x{data.width} (height x width), {'grey' if data.channels == 1 else 'in color'}"
        raise UserError(f"images: {file}: {error}, and the data set's images are {wanted}") from None


def _read_npz(file: Path) -> Part:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            images = arrays["images"]
            labels = arrays.get("labels")
    except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
        raise UserError(f"images = {file}: not an npz file with 'images': {error}") from None
    if images.dtype != np.uint8 or images.ndim != 4:
        raise UserError(f"images = {file}: images are uint8 [N, H, W, C], not {images.dtype} {list(images.shape)}")
    if labels is not None and (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu"):
        raise UserError(f"images = {file}: labels are whole numbers [N], not {labels.dtype} {list(labels.shape)}")
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return pixels, None if labels is None else torch.from_numpy(labels.astype(np.int64))
