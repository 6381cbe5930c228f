"""What a kind is and takes, read from the kind itself: for the command line and the generated reference."""

from __future__ import annotations

import inspect
import json
import linecache
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import annotated_types
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from diffkit.spec.component import Component
from diffkit.spec.docs import setting_docs
from diffkit.spec.spec import Spec


@dataclass(frozen=True)
class Setting:
    """One setting of a table.

    Attributes:
        name: Its name.
        type: Its type, in words of TOML or the name of a family.
        default: Its default, as plain values; None where it is required or simply not set.
        required: Whether a recipe must give it.
        bounds: What its value must keep to, such as ``>= 0, < 1``; empty without limits.
        doc: Its description, on one line.
    """

    name: str
    type: str
    default: Any
    required: bool
    bounds: str
    doc: str

    @property
    def default_as_toml(self) -> str:
        """The default as a recipe writes it; ``not set`` where there is none."""
        return _toml(self.default)


@dataclass(frozen=True)
class KindInfo:
    """One kind of a family, ready to print or to write as JSON."""

    family: str
    kind: str
    owner: str
    doc: str
    file: str
    line: int
    settings: tuple[Setting, ...]

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring, on one line."""
        return _first_paragraph(self.doc)


def summary_of(kind: type[Component]) -> str:
    """Return the first paragraph of a kind's docstring, on one line, without looking at its source."""
    return _first_paragraph(inspect.cleandoc(kind.__doc__ or ""))


def _first_paragraph(doc: str) -> str:
    return " ".join(doc.partition("\n\n")[0].split())


def describe_kind(kind: type[Component]) -> KindInfo:
    """Collect a registered kind's docstring, settings, owner and place in the source."""
    file, line = _place(kind)
    return KindInfo(
        family=kind.family,
        kind=kind.kind_name(),
        owner=kind.owners.get(kind.kind_name(), ""),
        doc=inspect.cleandoc(kind.__doc__ or ""),
        file=file,
        line=line,
        settings=describe_settings(kind),
    )


def describe_settings(table: type[Spec]) -> tuple[Setting, ...]:
    """Collect the settings of any table, in the order of their declaration, without 'kind'."""
    docs = setting_docs(table)
    fields = table.model_fields.items()
    return tuple(_setting(name, field, docs.get(name, "")) for name, field in fields if name != "kind")


def inner_tables(table: type[Spec]) -> dict[str, type[Spec]]:
    """Return the plain tables among a table's settings, such as a recipe's `[train]`, by the setting's name."""
    found = {name: _plain_table(field.annotation) for name, field in table.model_fields.items()}
    return {name: inner for name, inner in found.items() if inner is not None}


def _plain_table(annotation: Any) -> type[Spec] | None:
    if isinstance(annotation, type) and issubclass(annotation, Spec) and not issubclass(annotation, Component):
        return annotation
    choices = (_plain_table(choice) for choice in typing.get_args(annotation))
    return next((choice for choice in choices if choice is not None), None)


def _place(kind: type[Component]) -> tuple[str, int]:
    """Return the file and line of a class; one that was made without a file has none.

    `inspect` would parse the file anew for each of its classes.
    """
    try:
        file = inspect.getsourcefile(kind) or ""
    except (OSError, TypeError):
        return "", 0
    head = re.compile(rf"\s*class {kind.__name__}\b")
    return file, next((i for i, line in enumerate(linecache.getlines(file), start=1) if head.match(line)), 0)


def _setting(name: str, field: FieldInfo, doc: str) -> Setting:
    required = field.is_required()
    default = None if required else field.get_default(call_default_factory=True)
    return Setting(
        name=name,
        type=_type_name(field.annotation),
        default=to_jsonable_python(default),
        required=required,
        bounds=", ".join(filter(None, map(_bound, [*field.metadata, *_inner_metadata(field.annotation)]))),
        doc=doc,
    )


def _inner_metadata(annotation: Any) -> list[Any]:
    """Return what hangs on the type itself, such as on ``Annotated[int, Field(ge=1)] | None``."""
    if typing.get_origin(annotation) is Annotated:
        inner, *metadata = typing.get_args(annotation)
        return [*_inner_metadata(inner), *(part for item in metadata for part in getattr(item, "metadata", [item]))]
    return [part for choice in typing.get_args(annotation) for part in _inner_metadata(choice)]


_SIGNS = {
    annotated_types.Gt: ("gt", "> {}"),
    annotated_types.Ge: ("ge", ">= {}"),
    annotated_types.Lt: ("lt", "< {}"),
    annotated_types.Le: ("le", "<= {}"),
    annotated_types.MultipleOf: ("multiple_of", "a multiple of {}"),
    annotated_types.MinLen: ("min_length", "at least {} long"),
    annotated_types.MaxLen: ("max_length", "at most {} long"),
}


def _bound(constraint: Any) -> str:
    for kind, (name, words) in _SIGNS.items():
        if isinstance(constraint, kind):
            return words.format(getattr(constraint, name))
    pattern = getattr(constraint, "pattern", None)
    return f"matches {pattern}" if pattern else ""


_WORDS = {int: "integer", float: "number", bool: "true or false", str: "text", Path: "path", Any: "anything"}


def _type_name(annotation: Any) -> str:
    """Write a type as a user of recipes would say it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is Literal:
        return " or ".join(map(_toml, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(choice) for choice in arguments if choice is not type(None))
    if origin is tuple:
        return f"array of {_type_name(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, Component):
        return annotation.family
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return "table"
    return _WORDS.get(annotation) or ("anything" if isinstance(annotation, TypeVar) else annotation.__name__)


def _toml(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, dict):
        pairs = ", ".join(f"{name} = {_toml(item)}" for name, item in value.items() if item is not None)
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
