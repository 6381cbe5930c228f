"""Real images, and what is found of others in comparison."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffkit.data.base import Dataset, Images
from diffkit.distributed import Workers
from diffkit.errors import UserError
from diffkit.evaluating.kept import Kept, Rows
from diffkit.evaluating.measures import Evaluation, Measures
from diffkit.evaluation.base import Score
from diffkit.evaluation.features import AT_ONCE
from diffkit.random import numpy_generator

Part = tuple[Tensor, Tensor | None]
"""Some images, uint8 ``[n, C, H, W]``, and the labels ``[n]`` that they were made for, if any."""


class Reference:
    """Real images that others are compared with. Their features are extracted once, when they are first needed.

    Args:
        dataset: The data set, as the part of it that is compared with.
        measures: What is measured; has at least one metric of features.
        count: Number of the data set's images, always the same ones; all by default.
        device: Where features are extracted.
        workers: The processes that share the work.

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
        workers: Workers | None = None,
    ) -> None:
        self.dataset, self.measures = dataset, measures or Measures()
        self.workers = workers or Workers()
        self.images = dataset.open()
        self.numbers = _chosen(self.images, count)
        self._data = dataset.info()
        self._features = self.measures.features_for(self._data)
        with self.workers.first_goes_first():
            self._extractor = self._features.prepare(dataset, device)
        self._real: Rows | None = None

    @cached_property
    def sha256(self) -> str:
        """The hash of all pixels."""
        parts = torch.split(self.numbers, AT_ONCE)
        return _sha256(torch.cat([_digests(self.images.pixels(rows).cpu()) for rows in parts]))

    def about(self) -> dict[str, Any]:
        """Return what has to be known to compare what is found, as what JSON can hold; no feature is extracted."""
        return {
            "features": self._features.about(self._extractor),
            "reference": {
                "dataset": self.dataset.model_dump(mode="json"),
                "count": len(self.numbers),
                "sha256": self.sha256,
            },
        }

    def see(self, pixels: Tensor, labels: Tensor | None = None) -> Rows:
        """Return what is kept of images: features, the hashes of their pixels, and whether they are of their class.

        Args:
            pixels: The images, uint8 ``[n, C, H, W]``.
            labels: The classes ``[n]`` that they are of, or were made for.

        Raises:
            UserError: If they are of another size than the data set's.
        """
        if pixels.shape[1:] != self._data.shape:
            sizes = ("x".join(map(str, shape)) for shape in (pixels.shape[1:], self._data.shape))
            raise UserError(
                "images of {} cannot be compared with a data set of {} (channels x height x width)".format(*sizes)
            )
        features = self._extractor.extract(pixels)
        classes = None if labels is None else self._extractor.classes(features)
        right = torch.full((len(pixels),), -1) if labels is None or classes is None else (classes == labels.cpu())
        return {"features": features, "digest": _digests(pixels), "right": right.to(torch.int8)}

    def extract(self, folder: Path | None = None) -> None:
        """Extract the features of the real images, with a progress bar, unless that was done.

        All processes are to ask.

        Args:
            folder: Where they are kept, to go on from.
        """
        if self._real is not None:
            return
        kept = Kept(folder, self.workers)
        missing = kept.missing(len(self.numbers), AT_ONCE)
        with self.workers.progress_bar("features of the data set", sum(map(len, missing))) as advance:
            for part in missing:
                rows = self.numbers[part.start : part.stop]
                kept.add(part, self.see(self.images.pixels(rows).cpu(), self.images.labels(rows)))
                advance(len(part))
        self._real = kept.gather(len(self.numbers))

    def compare(self, made: Rows) -> Evaluation:
        """Compare images with the real ones.

        Args:
            made: What was seen of them.

        Raises:
            UserError: If there are too few.
        """
        self.extract()
        assert self._real is not None
        scores: dict[str, Score] = {}
        for metric in self.measures.of_features:
            try:
                scores |= metric.scores(made["features"], self._real["features"])
            except ValueError as error:
                raise UserError(f"metric = {metric.kind_name()}: {error}") from None
        if (accuracy := _accuracy(made)) is not None:
            scores["accuracy"] = accuracy
        of_real = _accuracy(self._real)
        about = {"images": {"count": len(made["features"]), "sha256": _sha256(made["digest"])}, **self.about()}
        about["features"]["dimensions"] = self._real["features"].shape[1]
        about["reference"]["accuracy"] = None if of_real is None else of_real.value
        return Evaluation(scores, {**about, "metrics": self.measures.dumped()})


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
        UserError: If features cannot be had, there are too few images, they are of different sizes, or a metric needs
            the model that made them.
    """
    measures = measures or Measures()
    measures.refuse_model_metrics("is of a model, and there are images only: leave it out")
    real = Reference(dataset, measures, count=reference, device=device)
    real.extract()
    seen, first = Kept(), 0
    for pixels, labels in made:
        seen.add(range(first, first + len(pixels)), real.see(pixels, labels))
        first += len(pixels)
    return real.compare(seen.gather(first))


def _chosen(images: Images, count: int | None) -> Tensor:
    if count is not None and count > len(images):
        raise UserError(f"reference = {count}: there are {len(images)} images")
    if count is None:
        return torch.arange(len(images))
    # by chance, since a data set may be in the order of its classes
    return torch.from_numpy(numpy_generator(0, "reference").permutation(len(images))[:count]).sort().values


def _digests(pixels: Tensor) -> Tensor:
    """Return the SHA-256 of each image's pixels: uint8 ``[n, 32]``."""
    found = [hashlib.sha256(image.tobytes()).digest() for image in pixels.contiguous().numpy()]
    return torch.frombuffer(bytearray(b"".join(found)), dtype=torch.uint8).view(-1, 32)


def _sha256(digests: Tensor) -> str:
    """Return the hash of all images from theirs, whatever the parts were."""
    return hashlib.sha256(digests.contiguous().numpy().tobytes()).hexdigest()


def _accuracy(seen: Rows) -> Score | None:
    """Return which part is of the class that it is labelled with; None where that isn't known."""
    right = seen["right"][seen["right"] >= 0].to(torch.float64)
    if len(right) == 0:
        return None
    part = right.mean().item()
    return Score(part, (part * (1 - part) / len(right)) ** 0.5)
