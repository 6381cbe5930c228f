"""denoising-diffusion-pytorch itself, where it is installed: to compare with what was read, and to measure against."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import nn

from diffkit.nn.embedding import Sinusoidal
from diffkit.nn.lucidrains import LucidrainsUNet
from diffkit.nn.memory_attention import Memory, MemoryAttention
from diffkit.nn.post_norm import PostNorm

PACKAGE = "denoising_diffusion_pytorch"

FOR_TRAINER = ("torchvision", "accelerate", "ema_pytorch")
"""What the package imports for its Trainer alone. There is no torchvision for each torch."""


def is_installed() -> bool:
    """Return whether the package and what its networks need are there."""
    return all(importlib.util.find_spec(name) is not None for name in (PACKAGE, "einops"))


def package() -> Any:
    """Import the package, also where what only its Trainer needs is missing."""
    with _stand_ins():
        return importlib.import_module(PACKAGE)


def unet_of(spec: LucidrainsUNet, channels: int, *, self_condition: bool = False) -> nn.Module:
    """Build the package's Unet that comes nearest to a model of diffkit's, with the package's initial weights.

    Args:
        spec: The model.
        channels: Number of the images' channels.
        self_condition: Whether the network sees its last estimate of x0 too.
    """
    attentions = [spec.attention_of(level)[1] for level in range(len(spec.multipliers))]
    memory = attentions[0] if isinstance(attentions[0], Memory) else MemoryAttention()
    network: nn.Module = package().Unet(
        spec.channels,
        init_dim=spec.first_channels,
        dim_mults=spec.multipliers,
        channels=channels,
        self_condition=self_condition,
        attn_dim_head=memory.head_channels,
        attn_heads=memory.heads,
        full_attn=tuple(isinstance(attention, MemoryAttention) for attention in attentions),
        **untold(spec),
    )
    return network


def untold(spec: LucidrainsUNet) -> dict[str, float]:
    """Return the settings of a Unet that its weights don't tell."""
    return {
        "dropout": spec.resnet.dropout if isinstance(spec.resnet, PostNorm) else 0.0,
        "sinusoidal_pos_emb_theta": spec.embedding.max_period if isinstance(spec.embedding, Sinusoidal) else 10_000.0,
    }


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Let the package be imported where what only its Trainer needs is missing."""
    names = [name for name in FOR_TRAINER if name not in sys.modules and importlib.util.find_spec(name) is None]
    sys.modules.update({name: _Missing(name) for name in names})
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


class _Missing(ModuleType):
    """Stands for a module that is not installed: gives a class of any name, which nothing can be done with."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})
