"""From a TOML file to a checked recipe, in two steps.

`read_document` gives the plain tables; `validate` turns them into a `Recipe`. Between the two the caller
loads the plugins that the document names, so that their kinds are known.
"""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from diffkit import bounds
from diffkit.errors import Problem, RecipeError, UserError
from diffkit.recipe.overrides import apply_override
from diffkit.recipe.rules import find_problems
from diffkit.recipe.tables import Recipe
from diffkit.spec import problems_of

LARGEST_FILE = 2**20
"""No recipe is longer, in bytes; what is longer is something else."""


def read_document(file: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a recipe's tables from a file and apply ``key=value`` overrides.

    Raises:
        UserError: If there is no such file, or it isn't TOML, or an override has no place.
    """
    document = parse_toml(read_text(file), str(file))
    for override in overrides:
        apply_override(document, override)
    return document


def read_text(file: Path) -> str:
    """Read a recipe file: UTF-8, with or without a byte-order mark."""
    try:
        mode = file.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UserError(f"{file}: this is a folder, not a recipe file")
        if not stat.S_ISREG(mode):
            raise UserError(f"{file}: this is not a regular file")
        if file.stat().st_size > LARGEST_FILE:
            raise UserError(f"{file}: too long for a recipe, which has at most {LARGEST_FILE} bytes")
        content = file.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{file}: this file is UTF-16, and TOML is UTF-8: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text (at byte {error.start})") from None


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        UserError: With the line of the mistake.
    """
    if len(text) > LARGEST_FILE:
        raise UserError(f"{source}: too long for a recipe, which has at most {LARGEST_FILE} bytes")
    try:
        return bounds.parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        raise UserError(f"{source}: not valid TOML: {message[:1].lower()}{message[1:]}") from None
    except ValueError as error:
        raise UserError(f"{source}: not usable TOML: {error}") from None


def validate(document: dict[str, Any], source: str, folder: Path | None = None, *, cross_check: bool = True) -> Recipe:
    """Check a recipe's tables, and that they fit together.

    Args:
        document: The tables, as read from TOML.
        source: The recipe's file, for messages.
        folder: What relative paths start at; the working directory by default.
        cross_check: Also check the rules between tables (`diffkit.recipe.rules`).

    Raises:
        RecipeError: With every problem found.
    """
    try:
        recipe = Recipe.model_validate(document, context={"folder": folder})
    except ValidationError as error:
        raise RecipeError(source, problems_of(error)) from None
    problems: list[Problem] = find_problems(recipe) if cross_check else []
    if problems:
        raise RecipeError(source, problems)
    return recipe
