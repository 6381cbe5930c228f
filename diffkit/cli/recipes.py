"""``diffkit recipes``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffkit.plugins.manager import Plugins


@dataclass(frozen=True)
class RecipeInfo:
    """A packaged recipe.

    Attributes:
        name: Its name.
        owner: The plugin that brings it, or diffkit.
        file: Where it lies.
        summary: The first line of its comment.
    """

    name: str
    owner: str
    file: Path
    summary: str


def command() -> None:
    """List the recipes that come with diffkit and with plugins."""
    from diffkit.cli.common import load_plugins

    infos = list_recipes(load_plugins())
    width = max((len(info.name) for info in infos), default=0)
    for info in infos:
        owner = "" if info.owner == "diffkit" else f" [{info.owner}]"
        print(f"{info.name:<{width}}  {info.summary}{owner}")


def list_recipes(plugins: Plugins) -> list[RecipeInfo]:
    """Return the packaged recipes in the order of the alphabet."""
    files = plugins.recipes()
    owners = {name: plugin.name for plugin in plugins.infos.values() for name in plugin.recipes}
    return [RecipeInfo(name, owners[name], file, _first_comment(file)) for name, file in files.items()]


def _first_comment(file: Path) -> str:
    from diffkit.recipe.load import read_text

    comments = [line[1:].strip() for line in read_text(file).splitlines() if line.startswith("# ")]
    return comments[0] if comments else ""
