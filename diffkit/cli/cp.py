"""``diffkit cp``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffkit.cli.options import Force


def command(
    name: Annotated[str, typer.Argument(help="Name of a packaged recipe; diffkit recipes lists them.")],
    dest: Annotated[Path, typer.Argument(help="A new file, or a folder to put NAME.toml into.")],
    force: Force = False,
) -> None:
    """Copy a packaged recipe, to change it."""
    from diffkit.cli.common import load_plugins

    print(copy_recipe(name, load_plugins().recipes(), dest, force=force))


def copy_recipe(name: str, known: dict[str, Path], dest: Path, *, force: bool = False) -> Path:
    """Copy a recipe and return the new file.

    Args:
        name: One of the `known` recipes.
        known: The packaged recipes by name.
        dest: The new file, or the folder for it.
        force: Write also where a file is.

    Raises:
        UserError: If there is no such recipe, or a file is there already.
    """
    from diffkit.cli.common import write_new
    from diffkit.recipe.load import read_text
    from diffkit.recipe.packaged import find_packaged

    text = read_text(find_packaged(name, known))
    file = dest / f"{name}.toml" if dest.is_dir() else dest
    write_new(file, text, force=force)
    return file
