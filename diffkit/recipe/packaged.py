"""The recipes that come with diffkit and with plugins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import diffkit
from diffkit.errors import UserError, did_you_mean


def packaged_recipes() -> dict[str, Path]:
    """Return the files of diffkit's own recipes by name."""
    return by_name(_folder().glob("*.toml"))


def by_name(files: Iterable[Path]) -> dict[str, Path]:
    """Name recipe files by their stem, in the order of the alphabet."""
    return {file.stem: file for file in sorted(files)}


def find_recipe(name: str, known: Mapping[str, Path]) -> Path:
    """Return the recipe file that a user means: a path, a run folder, or the name of one of the `known`.

    Raises:
        UserError: If there is none; names the nearest.
    """
    path = Path(name)
    try:
        if (path / "recipe.toml").is_file():  # a run folder
            return path / "recipe.toml"
        if path.exists() and not (path.is_dir() and name in known):
            return path
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from None
    if path.suffix or len(path.parts) != 1:
        raise UserError(f"{name}: no such recipe file.{_hint(path.stem, known)}")
    return find_packaged(name, known)


def find_packaged(name: str, known: Mapping[str, Path]) -> Path:
    """Return the file of one of the `known` recipes.

    Raises:
        UserError: If there is none of this name; names the nearest.
    """
    if name not in known:
        raise UserError(f"no recipe is called '{name}'.{_hint(name, known)}")
    return known[name]


def _hint(name: str, known: Iterable[str]) -> str:
    return f"{did_you_mean(name, known)} Packaged: {', '.join(known)}"


def _folder() -> Path:
    """In a wheel the recipes lie inside of the package, in a checkout beside it."""
    package = Path(diffkit.__file__).parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"
