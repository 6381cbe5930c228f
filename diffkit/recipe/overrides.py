"""``key=value`` on the command line, laid over a recipe."""

from __future__ import annotations

from typing import Any

from diffkit.bounds import parse_toml
from diffkit.errors import UserError
from diffkit.spec import CommandLineText


def apply_override(document: dict[str, Any], override: str) -> None:
    """Set one value in a recipe's tables.

    Args:
        document: The tables; changed in place. Missing tables are made. A component that is given by its name
            alone becomes a table, so that a setting of it can be set.
        override: ``train.steps=100``, ``process.schedule=cosine``, ``callbacks.0.every=5``. The value is TOML; a
            bare word is text.

    Raises:
        UserError: If the override has no ``=`` or its key has no place.
    """
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"'{override}': an override is key=value, such as train.steps=100")
    place: Any = document
    for depth, part in enumerate(parts[:-1]):
        place = _step_into(place, part, ".".join(parts[: depth + 1]), override)
    last = parts[-1]
    if isinstance(place, list):
        place[_index(place, last, key, override)] = _value(text)
    else:
        place[last] = _value(text)


def _step_into(place: Any, part: str, path: str, override: str) -> Any:
    at: Any = _index(place, part, path, override) if isinstance(place, list) else part
    if isinstance(place, dict) and at not in place:
        place[at] = {}
    if isinstance(place[at], str):  # a kind's bare name
        place[at] = {"kind": place[at]}
    if not isinstance(place[at], dict | list):
        raise UserError(f"'{override}': {path} is a value, not a table")
    return place[at]


def _index(items: list[Any], part: str, path: str, override: str) -> int:
    if not part.isdecimal() or len(part) > 9 or int(part) >= len(items):
        allowed = f"0 to {len(items) - 1}" if items else "none, it is empty"
        raise UserError(f"'{override}': {path} must be the number of an item of the array: {allowed}")
    return int(part)


def _value(text: str) -> Any:
    try:
        table = parse_toml(f"value = {text}")
    except ValueError:
        return CommandLineText(text)
    if set(table) != {"value"}:  # the text held a line of its own
        return CommandLineText(text)
    return _mark(table["value"])


def _mark(value: Any) -> Any:
    """Mark all texts as the command line's, for the sake of relative paths."""
    if isinstance(value, str):
        return CommandLineText(value)
    if isinstance(value, list):
        return [_mark(item) for item in value]
    if isinstance(value, dict):
        return {key: _mark(item) for key, item in value.items()}
    return value
