"""What a model's images depend on: what reports state, and by what a finished part is known again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch

from diffkit.pipeline import Pipeline
from diffkit.recipe.tables import Sample
from diffkit.storage.files import sha256
from diffkit.storage.runs import find_classifier, find_weights


def about_sampling(
    pipeline: Pipeline, settings: Sample, seed: int, from_data_set: Sequence[str] = ()
) -> dict[str, Any]:
    """Return how images are sampled, as what JSON can hold.

    Args:
        pipeline: The model.
        settings: How to sample.
        seed: The seed.
        from_data_set: What of the data set's images the samples are made from.

    Returns:
        That, the settings, the levels that are visited before the clean end, and the network calls for each image.
    """
    levels = settings.spacing.levels(pipeline.recipe.process, settings.steps)
    called = settings.sampler.levels_called(levels)
    return {
        "seed": seed,
        "from_data_set": list(from_data_set),
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
