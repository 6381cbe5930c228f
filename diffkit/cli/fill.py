"""``diffkit fill``."""

from __future__ import annotations

from diffkit.cli.options import Force, OutFile, Overrides, PluginFiles, RecipeName


def command(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: OutFile = None,
    force: Force = False,
    plugin: PluginFiles = None,
) -> None:
    """Print a recipe with all its settings. Behind each stands what it means."""
    from diffkit.cli.common import load_plugins, write_or_print
    from diffkit.recipe.write import to_toml

    filled = to_toml(load_plugins(plugin).open_recipe(recipe, overrides or ()), comments=True)
    write_or_print(filled, out, force=force)
