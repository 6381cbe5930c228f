"""What is measured, and what was found."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from diffkit.data.base import DataInfo
from diffkit.errors import UserError
from diffkit.evaluation.base import FeatureMetric, Metric, ModelMetric, Score
from diffkit.evaluation.features import Features
from diffkit.pipeline import Pipeline
from diffkit.spec import Many, Spec


class Measures(Spec):
    """What is measured, and on which features."""

    metrics: Many[Metric] = Field(
        ("fid", "kid", "precision_recall", "density_coverage"), min_length=1, validate_default=True
    )
    """The metrics."""
    features: Features | None = None
    """What they compare; by default `classifier` where the data set has labels, else `inception`."""

    @property
    def of_features(self) -> list[FeatureMetric]:
        """The metrics that compare features."""
        return [metric for metric in self.metrics if isinstance(metric, FeatureMetric)]

    @property
    def of_model(self) -> list[ModelMetric]:
        """The metrics of the model itself."""
        return [metric for metric in self.metrics if isinstance(metric, ModelMetric)]

    def settled(self, pipeline: Pipeline) -> Measures:
        """Return the same with what depends on the model filled in.

        Raises:
            UserError: If a metric cannot be had of the model.
        """
        metrics = (metric.settled(pipeline) if isinstance(metric, ModelMetric) else metric for metric in self.metrics)
        return self.model_copy(update={"metrics": tuple(metrics)})

    def refuse_model_metrics(self, reason: str) -> None:
        """Check that all metrics compare features.

        Raises:
            UserError: If one does not, with the reason why it should.
        """
        for metric in self.of_model:
            raise UserError(f"metric = {metric.kind_name()}: {reason}")

    def dumped(self) -> list[dict[str, Any]]:
        """Return the metrics with all their settings, as what JSON can hold."""
        return [metric.model_dump(mode="json") for metric in self.metrics]

    def features_for(self, data: DataInfo) -> Features:
        """Return the features to be used for a data set."""
        return self.features or Features.choose("classifier" if data.classes else "inception")


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        scores: The scores by name. `accuracy` is there where images were made for classes, and the features know these.
        about: What else has to be known to compare them: features and reference, with hashes, and numbers of images.
        kept: Folders with what was found of single images.
    """

    scores: dict[str, Score]
    about: dict[str, Any]
    kept: tuple[Path, ...] = field(default=(), compare=False)

    def forget(self) -> None:
        """Delete what was kept to go on from, once it is no longer needed."""
        for folder in self.kept:
            shutil.rmtree(folder, ignore_errors=True)
        for folder in {folder.parent for folder in self.kept}:
            with contextlib.suppress(OSError):  # others are still in it
                folder.rmdir()

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
