"""``diffkit validate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkit.cli.options import Overrides, PluginFiles, RecipeName

if TYPE_CHECKING:
    from diffkit.recipe.tables import Recipe


def command(recipe: RecipeName, overrides: Overrides = None, plugin: PluginFiles = None) -> None:
    """Check a recipe: each setting, how they fit together, and that its network can be built."""
    from diffkit.cli.common import load_plugins

    checked = load_plugins(plugin).open_recipe(recipe, overrides or ())
    print(f"{checked.name}: ok, {count_parameters(checked):,} parameters")


def count_parameters(recipe: Recipe) -> int:
    """Build a recipe's network on the meta device, where it takes no memory, and count its parameters.

    Raises:
        RecipeError: If the network cannot be built.
    """
    import torch

    from diffkit.errors import Problem, RecipeError
    from diffkit.pipeline import build_network

    try:
        with torch.device("meta"):
            network = build_network(recipe, recipe.data.info(), "meta")
    except (ValueError, RuntimeError) as error:  # torch raises RuntimeError for tensors that no machine can hold
        raise RecipeError(recipe.name, [Problem("model", f"cannot be built: {error}")]) from None
    return sum(parameter.numel() for parameter in network.parameters())
