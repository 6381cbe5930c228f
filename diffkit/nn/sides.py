"""Levels of a U-Net, named by the side of their feature maps."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from diffkit.data.base import DataInfo
from diffkit.errors import Problem


def _side_lengths(value: Any) -> Any:
    if value == "all":
        return value
    if not isinstance(value, list | tuple) or not all(type(side) is int and side > 0 for side in value):
        raise ValueError('should be "all" or an array of side lengths, such as [16, 8]')
    return tuple(value)


SideLengths = Annotated[
    tuple[int, ...] | Literal["all"],
    BeforeValidator(_side_lengths, json_schema_input_type=list[Annotated[int, Field(gt=0)]] | Literal["all"]),
]
"""Side lengths of levels, or all of them."""


def sides_of(data: DataInfo, levels: int) -> list[int]:
    """Return the longer side of each level's maps, as far as the sides can be halved."""
    return [
        max(data.height, data.width) >> n for n in range(levels) if data.height % 2**n == 0 and data.width % 2**n == 0
    ]


def has_side(chosen: SideLengths, data: DataInfo, level: int) -> bool:
    """Return whether a level, counted from 0, is among the chosen ones."""
    return chosen == "all" or max(data.height, data.width) >> level in chosen


def problems_of_sides(key: str, chosen: SideLengths, data: DataInfo, levels: int) -> list[Problem]:
    """Return that a setting names sides which no level has."""
    sides = sides_of(data, levels)
    missed = [side for side in chosen if side not in sides] if chosen != "all" else []
    if not missed:
        return []
    never = ", ".join(map(str, missed))
    message = f"no level has maps of side {never}. Allowed for these images: {', '.join(map(str, sides))}"
    return [Problem(key, message, list(chosen))]
