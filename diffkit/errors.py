"""What can go wrong, and with which exit code the command line answers.

Everything that a user can mend is a `UserError`: its text is the whole message, ready to print.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


class DiffkitError(Exception):
    """Base of all errors that diffkit raises on purpose."""

    exit_code: ClassVar[int] = 1


class UserError(DiffkitError):
    """A mistake in a recipe, an argument, the data, a checkpoint or a plugin."""

    exit_code = 2


class DataError(UserError):
    """A data set that is missing or damaged."""


class CheckpointError(UserError):
    """A run or checkpoint folder that is missing, damaged or does not fit."""


class PluginError(UserError):
    """A plugin that cannot be used, or whose hook raised."""


class WriteError(UserError):
    """A part of a run that must be kept, a checkpoint or the log, and cannot be written."""


class OutOfMemory(UserError):
    """Memory ran out; the text says which setting to lower, and to what."""


class Diverged(DiffkitError):
    """The training loss is no longer a finite number."""

    exit_code = 3


class Interrupted(DiffkitError):
    """Training was stopped from outside, after a checkpoint was written."""

    exit_code = 130


def exit_code_of(error: BaseException) -> int:
    """Return the exit code with which the command line answers an error."""
    if isinstance(error, DiffkitError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return Interrupted.exit_code
    return UserError.exit_code if isinstance(error, OSError) else 1


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Name a file in the system's errors while it is written: those of a full disk name none.

    Raises:
        OSError: With the file's name.
    """
    try:
        yield
    except OSError as error:
        error.filename = str(file)
        raise


def reason_of(error: OSError) -> str:
    """Return a system's error as one line: the file, if it is known, and what is wrong with it."""
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}"


@contextlib.contextmanager
def must_be_written() -> Iterator[None]:
    """Say that what a run must keep cannot be written.

    Raises:
        WriteError: If the system can't write it.
    """
    try:
        yield
    except OSError as error:
        raise WriteError(reason_of(error)) from error


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe.

    Attributes:
        key: The dotted place, such as ``model.resnet.dropout``; empty for the whole file.
        message: What is wrong, what is allowed, and the nearest right name.
        value: The wrong value; `MISSING` where there is none.
    """

    key: str
    message: str
    value: Any = ...

    MISSING: ClassVar[Any] = ...

    def __str__(self) -> str:
        value = "" if self.value is self.MISSING else f" = {_shown(self.value)}"
        return f"  {self.key}{value}\n    {self.message}" if self.key else f"  {self.message}"


class RecipeError(UserError):
    """All the mistakes of one recipe, reported together.

    Attributes:
        source: The recipe's file, or another word for where it came from.
        problems: Every mistake that was found.
    """

    def __init__(self, source: str | Path, problems: Sequence[Problem]) -> None:
        self.source = str(source)
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"
        super().__init__("\n".join([f"{self.source}: {count}", *map(str, self.problems)]))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest of the `known` words, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=3)
    near.sort(key=lambda name: sorted(name) != sorted(word))  # two letters swapped is the likeliest slip
    return f" Did you mean '{near[0]}'?" if near else ""


def _shown(value: Any) -> str:
    """Write a value as TOML would, cut where it is long."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, str):
        text = f'"{value}"'
    else:
        text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
