"""Models of diffusers with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def diffusers():
    library = pytest.importorskip("diffusers")
    library.utils.logging.set_verbosity_error()
    return library


SMALL: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


def randomize(network: nn.Module) -> nn.Module:
    """Give all weights random values, those too that start at zero or one."""
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.normal_(std=weight[0].numel() ** -0.5)
            else:
                weight.normal_(mean=0.5, std=0.3)
    return network


@pytest.fixture(scope="session")
def make_unet(diffusers) -> Callable[..., nn.Module]:
    """Makes a small UNet2DModel with random weights."""

    def make(seed: int = 0, **settings: Any) -> nn.Module:
        torch.manual_seed(seed)
        return randomize(diffusers.UNet2DModel(**{**SMALL, **settings})).eval()

    return make
