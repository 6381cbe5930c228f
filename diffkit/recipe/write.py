"""A recipe with all its defaults, as TOML."""

from __future__ import annotations

from typing import Any

import tomlkit
from tomlkit.items import AoT, InlineTable, Item, Table

from diffkit.recipe.tables import Recipe
from diffkit.spec import Spec, setting_docs


def to_toml(recipe: Recipe, *, comments: bool = False) -> str:
    """Write every setting of a recipe out. Reading the text gives an equal recipe.

    Args:
        recipe: The recipe.
        comments: Put each setting's description behind it.
    """
    document = tomlkit.document()
    _fill(document, recipe, recipe.model_dump(mode="json", exclude_none=True), comments)
    return tomlkit.dumps(document)


def _fill(out: tomlkit.TOMLDocument | Table, spec: Spec, values: dict[str, Any], comments: bool) -> None:
    """Write plain settings first and tables after them, as TOML asks."""
    docs = setting_docs(type(spec)) if comments else {}
    tables = {name: getattr(spec, name) for name in values if _is_table(spec, name)}
    for name, value in values.items():
        if name in tables:
            continue
        item = _inline(value)
        if name in docs:
            item.comment(docs[name])
        out.add(name, item)
    for name, table in tables.items():
        write = _array if isinstance(table, tuple) else _table
        out.add(name, write(table, values[name], comments))


def _is_table(spec: Spec, name: str) -> bool:
    """Tables of the recipe itself, and arrays of tables anywhere, get a header; all else stays on one line."""
    value = getattr(spec, name)
    if isinstance(value, tuple):
        return bool(value) and all(isinstance(item, Spec) for item in value)
    return isinstance(spec, Recipe) and isinstance(value, Spec)


def _table(spec: Spec, values: dict[str, Any], comments: bool) -> Table:
    table = tomlkit.table()
    _fill(table, spec, values, comments)
    return table


def _array(specs: tuple[Spec, ...], values: list[dict[str, Any]], comments: bool) -> AoT:
    array = tomlkit.aot()
    for spec, value in zip(specs, values, strict=True):
        array.append(_table(spec, value, comments))
    return array


def _inline(value: Any) -> Item:
    if isinstance(value, dict):
        table: InlineTable = tomlkit.inline_table()
        for name, item in value.items():
            table.append(name, _inline(item))
        return table
    if isinstance(value, list):
        array = tomlkit.array()
        for item in value:
            array.append(_inline(item))
        return array
    scalar: Item = tomlkit.item(value)
    return scalar
