"""What is measured: a training step, and a call of the network as sampling makes it. Here diffkit's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from diffkit.data.base import DataInfo
from diffkit.data.memory import InMemory
from diffkit.diffusion.guidance import ClassifierFree
from diffkit.pipeline import Pipeline
from diffkit.recipe.tables import Recipe
from diffkit.train.run import TrainingRun

IMAGES = 256
"""So many random images stand for the data set."""

LONG = 10**6
"""More steps than anyone measures."""


def random_images(data: DataInfo, device: torch.device | str = "cpu") -> InMemory:
    """Return random pixels, labels and vectors of a data set's sizes, whose files need not be there."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (IMAGES, *data.shape), dtype=torch.uint8, generator=generator)
    labels = torch.randint(len(data.classes), (IMAGES,), generator=generator) if data.classes else None
    vectors = torch.randn(IMAGES, data.vector, generator=generator) if data.vector else None
    return InMemory(pixels, labels, vectors).to(device)


def training_run(recipe: Recipe, data: DataInfo, device: torch.device) -> TrainingRun:
    """Return a run as `diffkit train` makes it, but for the images, and without callbacks, files and an end."""
    endless = recipe.train.model_copy(update={"steps": max(recipe.train.steps, LONG)})
    recipe = recipe.model_copy(update={"train": endless})
    return TrainingRun(recipe, Path(recipe.name), data, random_images(data), device)


def network_call(recipe: Recipe, data: DataInfo, network: nn.Module, device: torch.device) -> Callable[[], object]:
    """Return what asks the network once about a batch, as a sampler does, without guidance.

    The batch is as large as that of a training step. The network is used as it is, not copied.
    """
    pipeline = Pipeline(recipe, data, network, device)
    count = recipe.train.batch_size
    images = random_images(data, device)
    rows = torch.arange(count) % len(images)
    settings = recipe.sample.model_copy(update={"guidance": ClassifierFree()})
    x = torch.randn(count, *data.shape, device=device)
    condition = recipe.objective.condition
    denoise = pipeline.denoise(
        settings,
        pipeline.labels_of(None, range(count)),
        condition=condition.make(x.clamp(-1, 1)) if condition.channels(data.channels) else None,
        vectors=images.vectors(rows),
    )
    levels = settings.spacing.levels(recipe.process, settings.steps)
    level = levels[len(levels) // 2 - 1] if len(levels) > 1 else levels[0]

    @torch.inference_mode()
    def call() -> object:
        network.eval()
        return denoise(x, level)

    return call


def sampling_copy(run: TrainingRun) -> nn.Module:
    """Return the averaged network of a run, for sampling."""
    network = copy.deepcopy(run.model)
    run.ema.copy_to(network)
    return network
