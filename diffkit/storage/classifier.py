"""Trained classifiers: one safetensors file, with the recipe in its header."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from diffkit.data.base import DataInfo
from diffkit.errors import CheckpointError
from diffkit.recipe.tables import Recipe
from diffkit.storage.checkpoint import read_weights, recipe_of
from diffkit.storage.files import write_atomically
from diffkit.storage.fit import build_with
from diffkit.storage.runs import find_classifier


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier, and what it was trained for.

    Attributes:
        recipe: The recipe, whose noise the classifier knows.
        data: What it knows of its images.
        network: The network, in evaluation mode: ``forward(x, time) -> logits``.
    """

    recipe: Recipe
    data: DataInfo
    network: nn.Module


def write_classifier(file: Path, header: dict[str, str], network: nn.Module) -> None:
    """Write a classifier's file, with a header of `make_header`; it appears whole or not at all."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(file, safetensors.torch.save(tensors, header))


def read_classifier(path: Path, device: torch.device | str = "cpu") -> TrainedClassifier:
    """Read a classifier's file, or that of a run folder.

    Raises:
        CheckpointError: If there is none, it is damaged, or it needs a plugin that isn't loaded.
    """
    file = find_classifier(path)
    header, tensors = read_weights(file, "classifier")
    recipe = recipe_of(header, file)
    if recipe.classifier is None:
        raise CheckpointError(f"{file}: the header is damaged")
    settings = recipe.classifier.network
    # who samples may be in inference mode, whose tensors have no gradients
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        network = build_with(tensors, lambda where: settings.build(header.data).to(where), device, file)
    return TrainedClassifier(recipe, header.data, network.eval())
