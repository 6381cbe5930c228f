"""``diffkit schema``."""

from __future__ import annotations

import json
from typing import Any

from diffkit.cli.options import Force, OutFile, PluginFiles


def command(out: OutFile = None, force: Force = False, plugin: PluginFiles = None) -> None:
    """Print the JSON schema of recipes.

    An editor's TOML plug-in completes and checks recipes by it. It holds the kinds of
    installed plugins too. A recipe names it in a comment: #:schema ./recipe.schema.json
    """
    from diffkit.cli.common import load_plugins, write_or_print

    load_plugins(plugin)
    write_or_print(json.dumps(recipe_schema(), indent=2) + "\n", out, force=force)


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe, with the kinds registered now."""
    from diffkit.recipe.tables import Recipe
    from diffkit.spec import json_schema

    return json_schema(Recipe)
