"""Which components of a recipe come from plugins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diffkit.spec import Component, Spec


def from_plugins(spec: Spec) -> dict[str, str]:
    """Return the components of a table that diffkit doesn't bring itself: ``{"family.kind": "plugin"}``."""
    owners = {f"{c.family}.{c.kind}": type(c).owners.get(c.kind, "unknown") for c in _components(spec)}
    return {name: owner for name, owner in sorted(owners.items()) if owner != "diffkit"}


def _components(value: Any) -> Iterator[Component]:
    if isinstance(value, Component):
        yield value
    if isinstance(value, Spec):
        for name in type(value).model_fields:
            yield from _components(getattr(value, name))
    if isinstance(value, tuple):
        for item in value:
            yield from _components(item)
