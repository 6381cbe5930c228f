"""A ConvNeXt block for diffkit's U-Net, and a recipe that uses it.

The entry point of the plugin. It imports no torch, so that ``diffkit --help`` stays quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import diffkit

if TYPE_CHECKING:
    from diffkit.spec import Component


@diffkit.hookimpl
def register_components() -> list[type[Component]]:
    """Add the block."""
    from diffkit_convnext.block import ConvNeXt

    return [ConvNeXt]


@diffkit.hookimpl
def register_recipes() -> list[Path]:
    """Add the recipe."""
    return sorted((Path(__file__).parent / "recipes").glob("*.toml"))
