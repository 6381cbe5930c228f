"""What is measured: a training step, and a call of the network as sampling makes it. Here diffkit's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from diffkit.data.base import DataInfo
from diffkit.data.memory import InMemory
from diffkit.data.pixels import to_uint8
from diffkit.diffusion.denoise import Denoise
from diffkit.diffusion.generate import generate
from diffkit.diffusion.guidance import ClassifierFree
from diffkit.pipeline import Pipeline
from diffkit.random import ImageNoise
from diffkit.recipe.tables import Recipe, Sample
from diffkit.train.run import TrainingRun

IMAGES = 256
"""So many random images stand for the data set."""

LONG = 10**6
"""More steps than anyone measures."""

FEW = 6
"""So many steps, at most, of a walk whose memory counts."""


def random_images(data: DataInfo, device: torch.device | str = "cpu") -> InMemory:
    """Return random pixels, labels and vectors of a data set's sizes, whose files need not be there."""
    generator, classes = torch.Generator().manual_seed(0), len(data.classes)
    with torch.device("cpu"):
        pixels = torch.randint(256, (IMAGES, *data.shape), dtype=torch.uint8, generator=generator)
        labels = torch.randint(classes, (IMAGES,), generator=generator) if classes else None
        vectors = torch.randn(IMAGES, data.vector, generator=generator) if data.vector else None
    return InMemory(pixels, labels, vectors).to(device)


def training_run(recipe: Recipe, data: DataInfo, device: torch.device) -> TrainingRun:
    """Return a run as `diffkit train` makes it, but for the images, and without callbacks, files and an end."""
    endless = recipe.train.model_copy(update={"steps": max(recipe.train.steps, LONG)})
    recipe = recipe.model_copy(update={"train": endless})
    return TrainingRun(recipe, Path(recipe.name), data, random_images(data), device)


def uncompiled(recipe: Recipe) -> Recipe:
    """Return a recipe without `train.compile`: nothing is to be seen inside of what is compiled."""
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"compile": False})})


def network_call(recipe: Recipe, data: DataInfo, network: nn.Module, device: torch.device) -> Callable[[], object]:
    """Return what asks the network once about a batch, as a sampler does, without guidance.

    The batch is as large as that of a training step. The network is used as it is, not copied.
    """
    count = recipe.train.batch_size
    settings = recipe.sample.model_copy(update={"guidance": ClassifierFree()})
    x = torch.randn(count, *data.shape, device=device)
    denoise = _denoise(recipe, data, network, device, settings, x)
    levels = settings.spacing.levels(recipe.process, settings.steps)
    level = levels[len(levels) // 2 - 1] if len(levels) > 1 else levels[0]

    @torch.inference_mode()
    def call() -> object:
        network.eval()
        return denoise(x, level)

    return call


def sampling_walk(recipe: Recipe, data: DataInfo, network: nn.Module, device: torch.device) -> Callable[[], object]:
    """Return what samples a batch as `diffkit sample` does, from random conditions where the model needs some.

    The walk has a few steps only, enough for what any sampler remembers of the steps before. A guidance is left out if
    it has a second network or a classifier. The network is used as it is, not copied.
    """
    settings = recipe.sample
    guidance = settings.guidance
    if guidance.guide_file is not None or guidance.classifier_file is not None:
        settings = settings.model_copy(update={"guidance": ClassifierFree()})
    with _disable_current_modes():  # the levels are numbers, also where tensors have none
        levels = settings.spacing.levels(recipe.process, min(settings.steps, FEW))
    noise = ImageNoise(0, range(settings.batch_size), data.shape, device)

    @torch.inference_mode()
    def walk() -> object:
        network.eval()
        denoise = _denoise(recipe, data, network, device, settings, noise())
        return to_uint8(generate(denoise, settings.sampler, levels, noise)).cpu()

    return walk


def _denoise(
    recipe: Recipe, data: DataInfo, network: nn.Module, device: torch.device, settings: Sample, x: Tensor
) -> Denoise:
    """Return a model as samplers see it, for a batch ``[N, C, H, W]`` of which conditions are made if there are any."""
    images, condition = random_images(data, device), recipe.objective.condition
    pipeline = Pipeline(recipe, data, network, device)
    return pipeline.denoise(
        settings,
        pipeline.labels_of(None, range(len(x)), settings.guidance),
        condition=condition.make(x.clamp(-1, 1)) if condition.channels(data.channels) else None,
        vectors=images.vectors(torch.arange(len(x)) % len(images)),
    )


def sampling_copy(run: TrainingRun) -> nn.Module:
    """Return the averaged network of a run, for sampling."""
    network = copy.deepcopy(run.model)
    run.ema.copy_to(network)
    return network
