"""Types of settings that TOML needs and strict validation would refuse."""

from __future__ import annotations

from pathlib import Path, PosixPath
from typing import Annotated, Any, TypeVar

from pydantic import PlainValidator, Strict, ValidationInfo

T = TypeVar("T")

Many = Annotated[tuple[T, ...], Strict(False)]
"""A TOML array, held as a tuple so that the table stays frozen. Its items are still strict."""


class CommandLineText(str):
    """Text that came from the command line: a relative path in it starts at the working directory."""


class AskedPath(PosixPath):
    """A path that a user wrote on the command line, and which may therefore be opened, wherever it leads."""


def resolve_path(path: str | Path, folder: Path | None) -> Path:
    """Make a path of a recipe absolute.

    Args:
        path: The path, as it was written; ``~`` is the user's home.
        folder: The recipe's folder, where relative paths start; the working directory if there is none.

    Raises:
        ValueError: If the path cannot be one.
    """
    if "\0" in str(path):
        raise ValueError("a path has no NUL character")
    start = Path.cwd() if folder is None or isinstance(path, CommandLineText) else folder
    try:
        resolved = start.absolute() / Path(path).expanduser()
        return AskedPath(resolved) if isinstance(path, CommandLineText | AskedPath) else resolved
    except RuntimeError:
        raise ValueError(f"the home of this user is not known: {Path(path).parts[0]}") from None


def _resolve(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str | Path) or str(value) == "":
        raise ValueError('a path is written as text, such as "data/images"')
    return resolve_path(value, (info.context or {}).get("folder"))


FilePath = Annotated[Path, PlainValidator(_resolve, json_schema_input_type=str)]
"""A path in a recipe."""
