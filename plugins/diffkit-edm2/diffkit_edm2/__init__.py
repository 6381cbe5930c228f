"""The magnitude-preserving U-Net of EDM2 for diffkit, and recipes that use it.

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
    """Add the model."""
    from diffkit_edm2.model import Edm2UNet

    return [Edm2UNet]


@diffkit.hookimpl
def register_recipes() -> list[Path]:
    """Add the recipes."""
    return sorted((Path(__file__).parent / "recipes").glob("*.toml"))
