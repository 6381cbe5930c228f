"""``diffkit plugins``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkit.cli.options import PluginFiles

if TYPE_CHECKING:
    from diffkit.plugins.manager import PluginInfo


def command(plugin: PluginFiles = None) -> None:
    """List the plugins. Each with its state, where it comes from, and what it brings."""
    from diffkit.cli.common import load_plugins
    from diffkit.cli.main import COMMANDS

    plugins = load_plugins(plugin)
    plugins.commands(reserved=COMMANDS)
    print("\n".join(describe_plugin(info) for info in plugins.infos.values()))


def describe_plugin(info: PluginInfo) -> str:
    """Write what became of a plugin: a line, and one each for its components and recipes."""
    lines = [f"{info.name}  {'works' if info.error is None else 'left out'}  ({info.origin})"]
    if info.error is not None:
        lines.append(f"  {info.error}")
    if info.components and info.name != "diffkit":
        lines.append(f"  components: {', '.join(info.components)}")
    if info.components and info.name == "diffkit":
        lines.append(f"  components: {len(info.components)}, see diffkit components")
    if info.recipes:
        lines.append(f"  recipes: {', '.join(info.recipes)}")
    return "\n".join(lines)
