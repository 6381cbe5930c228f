"""Types of settings that TOML needs and strict validation would refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Strict, ValidationInfo

T = TypeVar("T")

Many = Annotated[tuple[T, ...], Strict(False)]
"""A TOML array, held as a tuple so that the table stays frozen. Its items are still strict."""


class CommandLineText(str):
    """Text that came from the command line: a relative path in it starts at the working directory."""


def _resolve(value: Any, info: ValidationInfo) -> Any:
    """Make a path absolute: relative to the recipe's folder, or to the working directory if there is none."""
    if not isinstance(value, str | Path) or str(value) == "":
        raise ValueError('a path is written as text, such as "data/images"')
    folder = (info.context or {}).get("folder")
    start = Path.cwd() if folder is None or isinstance(value, CommandLineText) else Path(folder)
    return start.absolute() / Path(value).expanduser()


FilePath = Annotated[Path, BeforeValidator(_resolve, json_schema_input_type=str)]
"""A path in a recipe."""
