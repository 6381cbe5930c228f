"""How good a model's images are: samples and real images, their features, and all metrics at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from diffkit.storage.files import sha256
from diffkit.storage.runs import find_classifier, find_weights

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


class Reference:
    """Real images that others are compared with. Their features are extracted once, when they are first needed.

    Args:
        dataset: The data set, as the part of it that is compared with.
        measures: What is measured.
        count: Number of the data set's images, always the same ones; all by default.
        device: Where features are extracted.

    Raises:
        UserError: If features cannot be had, or there are not so many images.
    """

    def __init__(
        self,
        dataset: Dataset,
        measures: Measures | None = None,
        *,
        count: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.dataset, self.measures = dataset, measures or Measures()
        self.data = dataset.info()
        self._images = dataset.open()
        self._numbers = _chosen(self._images, count)
        self._features = self.measures.features_for(self.data)
        self._extractor = self._features.prepare(dataset, device)

    @cached_property
    def sha256(self) -> str:
        """The hash of all pixels."""
        digest = hashlib.sha256()
        for rows in torch.split(self._numbers, AT_ONCE):
            digest.update(self._images.pixels(rows).cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def _real(self) -> _Gathered:
        real = _Gathered(self._extractor, self.data)
        with progress_bar("features of the data set", total=len(self._numbers)) as advance:
            for rows in torch.split(self._numbers, AT_ONCE):
                real.add(self._images.pixels(rows).cpu(), self._images.labels(rows))
                advance(len(rows))
        return real

    def about(self) -> dict[str, Any]:
        """Return what has to be known to compare what is found, as what JSON can hold; no feature is extracted."""
        return {
            "features": self._features.about(self._extractor),
            "reference": {
                "dataset": self.dataset.model_dump(mode="json"),
                "count": len(self._numbers),
                "sha256": self.sha256,
            },
            "metrics": [metric.model_dump(mode="json") for metric in self.measures.metrics],
        }

    def compare(self, made: Iterable[Part]) -> Evaluation:
        """Compare images with these.

        Args:
            made: The images, in parts; asked for once the features of the real images are known.

        Raises:
            UserError: If there are too few images, or they are of another size.
        """
        real = self._real
        generated = _Gathered(self._extractor, self.data)
        for pixels, labels in made:
            generated.add(pixels, labels)
        scores: dict[str, Score] = {}
        for metric in self.measures.metrics:
            try:
                scores |= metric.scores(generated.features, real.features)
            except ValueError as error:
                raise UserError(f"metric = {metric.kind}: {error}") from None
        if (accuracy := generated.accuracy()) is not None:
            scores["accuracy"] = accuracy
        of_real = real.accuracy()
        about = {"images": {"count": len(generated), "sha256": generated.sha256}, **self.about()}
        about["features"]["dimensions"] = real.features.shape[1]
        about["reference"]["accuracy"] = None if of_real is None else of_real.value
        return Evaluation(scores, about)


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
    check_sampling(pipeline, settings)  # before features, which may take minutes
    about = about_sampling(pipeline, settings, seed)
    real = Reference(pipeline.dataset(split), measures, count=reference, device=pipeline.device)
    found = real.compare(sampled(pipeline, settings, seed))
    return Evaluation(found.scores, {"sampling": about, **found.about})


def check_sampling(pipeline: Pipeline, settings: Sample) -> None:
    """Check that a model's samples can be evaluated.

    Raises:
        UserError: If it cannot be sampled so.
    """
    pipeline.check(settings)
    pipeline.check_condition(None)
    pipeline.check_vectors(None)


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
    return Reference(dataset, measures, count=reference, device=device).compare(made)


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


def sampled(
    pipeline: Pipeline, settings: Sample, seed: int = 0, on_call: Callable[[int], None] | None = None
) -> Iterator[Part]:
    """Sample images, `settings.count` of them. A class-conditional model gets the classes in turn.

    Args:
        pipeline: The model.
        settings: How to sample.
        seed: Image i depends on it and on i only.
        on_call: Told the number of images after each call of the network; by default a progress bar is shown.

    Raises:
        UserError: If the model cannot be sampled so.
    """
    if on_call is not None:
        for batch in pipeline.batches(settings.count, settings, seed=seed, on_call=on_call):
            yield batch.images, batch.labels
        return
    calls = settings.sampler.calls(settings.spacing.levels(pipeline.recipe.process, settings.steps))
    with progress_bar("sampling", total=settings.count * calls) as advance:
        yield from sampled(pipeline, settings, seed, advance)


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


def about_model(pipeline: Pipeline) -> dict[str, Any]:
    """Return the name of a model's recipe, and a hash of all of the model that has a part in its images: the
    weights, whichever file they come from, and what the recipe says of network, process and objective."""
    digest = hashlib.sha256()
    recipe = pipeline.recipe.model_dump(mode="json", include={"process", "objective", "model"})
    digest.update(digest_of([recipe, vars(pipeline.data)]).encode())
    for name, tensor in pipeline.network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return {"recipe": pipeline.recipe.name, "sha256": digest.hexdigest()}


def identity_of(settings: Sample) -> dict[str, Any]:
    """Return what of the settings of sampling has a part in the images, as what JSON can hold."""
    guide, classifier = settings.guidance.guide_file, settings.guidance.classifier_file
    return {
        **settings.model_dump(mode="json", exclude={"batch_size"}),
        "guide": None if guide is None else sha256(find_weights(guide, "ema")),
        "classifier": None if classifier is None else sha256(find_classifier(classifier)),
    }


def digest_of(value: Any) -> str:
    """Return the SHA-256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


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
