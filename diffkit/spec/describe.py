"""What a kind is and takes, read from the kind itself: for the command line and the generated reference."""

from __future__ import annotations

import inspect
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import annotated_types
from pydantic.fields import FieldInfo

from diffkit.spec.component import Component
from diffkit.spec.spec import Spec


@dataclass(frozen=True)
class Setting:
    """One setting of a table."""

    name: str
    type: str
    default: Any
    required: bool
    bounds: str
    doc: str


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
        """The first line of the docstring."""
        return self.doc.partition("\n")[0]


def describe_kind(kind: type[Component]) -> KindInfo:
    """Collect a registered kind's docstring, settings, owner and place in the source."""
    _, line = inspect.getsourcelines(kind)
    return KindInfo(
        family=kind.family,
        kind=kind.kind_name(),
        owner=kind.owners.get(kind.kind_name(), ""),
        doc=inspect.cleandoc(kind.__doc__ or ""),
        file=inspect.getsourcefile(kind) or "",
        line=line,
        settings=describe_settings(kind),
    )


def describe_settings(table: type[Spec]) -> tuple[Setting, ...]:
    """Collect the settings of any table, in the order of their declaration, without 'kind'."""
    return tuple(_setting(name, field) for name, field in table.model_fields.items() if name != "kind")


def _setting(name: str, field: FieldInfo) -> Setting:
    required = field.is_required()
    default = None if required else field.get_default(call_default_factory=True)
    return Setting(
        name=name,
        type=_type_name(field.annotation),
        default=default.model_dump() if isinstance(default, Spec) else default,
        required=required,
        bounds=", ".join(filter(None, map(_bound, field.metadata))),
        doc=" ".join((field.description or "").split()),
    )


_SIGNS = {annotated_types.Gt: ">", annotated_types.Ge: ">=", annotated_types.Lt: "<", annotated_types.Le: "<="}


def _bound(constraint: Any) -> str:
    for kind, sign in _SIGNS.items():
        if isinstance(constraint, kind):
            return f"{sign} {getattr(constraint, kind.__name__.lower())}"
    if isinstance(constraint, annotated_types.MinLen):
        return f"at least {constraint.min_length} items"
    return ""


def _type_name(annotation: Any) -> str:
    """Write a type as a user of recipes would say it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is Literal:
        return " | ".join(f'"{choice}"' if isinstance(choice, str) else str(choice) for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type_name(choice) for choice in arguments if choice is not type(None))
    if origin is tuple:
        return f"[{_type_name(arguments[0])}, ...]"
    if isinstance(annotation, type) and issubclass(annotation, Component):
        return annotation.family
    return {int: "integer", float: "number", bool: "true | false", str: "text"}.get(
        annotation, getattr(annotation, "__name__", str(annotation)).lower().replace("posixpath", "path")
    )
