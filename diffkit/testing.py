"""Helpers for tests of components, for diffkit's own suite and for plugins'."""

from __future__ import annotations

from typing import Any, TypeVar

from diffkit.spec import Component

F = TypeVar("F", bound=Component)


def kinds_of(family: type[F], **settings: Any) -> list[Any]:
    """Return pytest parameters: one instance of every registered kind of a family, named by its kind.

    A kind with required settings takes them from its `example_settings`.

    Args:
        family: The family.
        **settings: Settings for all kinds that have them.
    """
    import pytest

    return [pytest.param(_example(kind, settings), id=name) for name, kind in sorted(family.kinds.items())]


def _example(kind: type[Component], settings: dict[str, Any]) -> Component:
    known = {name: value for name, value in settings.items() if name in kind.model_fields}
    return kind(**{**kind.example_settings(), **known})
