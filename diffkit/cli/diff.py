"""``diffkit diff``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from diffkit.cli.options import AsJson, PluginFiles

Compared = "A recipe file, a run folder, or the name of a packaged recipe."


def command(
    one: Annotated[str, typer.Argument(metavar="A", help=Compared)],
    other: Annotated[str, typer.Argument(metavar="B", help=Compared)],
    as_json: AsJson = False,
    plugin: PluginFiles = None,
) -> None:
    """Show in which settings two recipes or runs differ, with all defaults filled in."""
    from diffkit.cli.common import in_columns, load_plugins
    from diffkit.recipe.compare import ABSENT, differences

    plugins = load_plugins(plugin)
    found = differences(plugins.open_recipe(one), plugins.open_recipe(other), "json")
    if as_json:
        pairs = [{"setting": at.key, "a": at.one, "b": at.other} for at in found]
        print(json.dumps([{k: v for k, v in pair.items() if v is not ABSENT} for pair in pairs], indent=2))
    elif found:
        print(in_columns([("setting", one, other), *((at.key, _shown(at.one), _shown(at.other)) for at in found)]))
    else:
        print("no setting differs")


def _shown(value: Any) -> str:
    """Write a value as overrides do; nothing where there is no such setting."""
    from diffkit.recipe.compare import ABSENT

    if value is ABSENT:
        return ""
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)
