"""Recipes of networks that other libraries have too."""

import copy

import pytest
import torch

from diffkit.recipe.load import validate

LUCIDRAINS = {
    "name": "little",
    "data": {"kind": "unspecified", "channels": 1, "height": 8, "width": 8},
    "process": {"kind": "ddpm", "steps": 20},
    "objective": {"prediction": "velocity", "variance": "fixed_small"},
    "model": {
        "kind": "lucidrains_unet",
        "channels": 8,
        "multipliers": [1, 2],
        "resnet": {"kind": "post_norm", "dropout": 0.1},
    },
    "train": {"steps": 12, "batch_size": 4, "device_batch_size": 2, "ema": {"kind": "decay", "decay": 0.9}},
    "sample": {"steps": 5},
}


@pytest.fixture
def lucidrains():
    """Makes a recipe of denoising-diffusion-pytorch's Unet, with changes to its model's table."""

    def make(**model):
        document = copy.deepcopy(LUCIDRAINS)
        document["model"].update(model)
        return validate(document, "little")

    return make


@pytest.fixture
def cpu():
    return torch.device("cpu")
