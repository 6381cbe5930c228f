"""What differs between two recipes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from diffkit.recipe.tables import Recipe


class Absent:
    """The value of a setting that a table of another kind hasn't."""

    def __repr__(self) -> str:
        return "no such setting"


ABSENT = Absent()
"""The only one of its class."""


@dataclass(frozen=True)
class Difference:
    """A setting that differs.

    Attributes:
        key: Its dotted key, with numbers for the tables of an array, as overrides are written: ``callbacks.0.every``.
        one: Its value in the one recipe; `ABSENT` where there is no such setting.
        other: Its value in the other recipe.
    """

    key: str
    one: Any
    other: Any


def differences(one: Recipe, other: Recipe, mode: Literal["python", "json"] = "python") -> list[Difference]:
    """Return the settings in which two recipes differ, in the order of the recipe, with all defaults filled in.

    Args:
        one: A recipe.
        other: Another one.
        mode: Whether values are those of Python, such as paths, or what JSON can hold.
    """
    return list(_walk(one.model_dump(mode=mode), other.model_dump(mode=mode), ""))


def _walk(one: Any, other: Any, key: str) -> Iterator[Difference]:
    if one == other:
        return
    ours, theirs = _tables(one), _tables(other)
    if ours is not None and theirs is not None:
        for name in {**ours, **theirs}:
            place = f"{key}.{name}" if key else name
            yield from _walk(ours.get(name, ABSENT), theirs.get(name, ABSENT), place)
    else:
        yield Difference(key, one, other)


def _tables(value: Any) -> dict[str, Any] | None:
    """Return what is in a table or an array of tables, by name or number; None for a plain value."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple) and all(isinstance(item, dict) for item in value):
        return {str(number): item for number, item in enumerate(value)}
    return None
