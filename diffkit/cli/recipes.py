"""``diffkit recipes``."""

from __future__ import annotations

import itertools
import re
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
        summary: The first sentence of its comment.
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
    return [RecipeInfo(name, owners[name], file, _first_sentence(file)) for name, file in files.items()]


def _first_sentence(file: Path) -> str:
    from diffkit.recipe.load import read_text

    comment = itertools.takewhile(lambda line: line.startswith("# "), read_text(file).splitlines())
    text = " ".join(line[2:].strip() for line in comment)
    return re.split(r"(?<=\.) (?=[A-Z])", text, maxsplit=1)[0]
