"""``diffkit validate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkit.cli.options import Overrides, PluginFiles, RecipeName

if TYPE_CHECKING:
    from torch import nn

    from diffkit.recipe.tables import Recipe


def command(recipe: RecipeName, overrides: Overrides = None, plugin: PluginFiles = None) -> None:
    """Check a recipe and build its network.

    Each setting, how they fit together, and the network, on a device without memory: nothing is read or trained.
    """
    from diffkit.cli.common import load_plugins

    checked = load_plugins(plugin).open_recipe(recipe, overrides or ())
    parameters = sum(parameter.numel() for parameter in build_on_meta(checked).parameters())
    print(f"{checked.name}: ok, {parameters:,} parameters")


def build_on_meta(recipe: Recipe) -> nn.Module:
    """Build a recipe's network on the meta device, where it takes no memory.

    Raises:
        RecipeError: If the network cannot be built.
    """
    import torch

    from diffkit.errors import Problem, RecipeError
    from diffkit.pipeline import build_network

    data = recipe.data.info()  # before: what it counts must not be on the meta device
    try:
        with torch.device("meta"):
            return build_network(recipe, data, "meta")
    except (ValueError, RuntimeError) as error:  # torch raises RuntimeError for tensors that no machine can hold
        raise RecipeError(recipe.name, [Problem("model", f"cannot be built: {error}")]) from None
