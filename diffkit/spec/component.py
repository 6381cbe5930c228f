"""Families, their kinds, and how a recipe names one."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Self

from pydantic import SerializationInfo, TypeAdapter, ValidationInfo
from pydantic_core import PydanticCustomError, core_schema

from diffkit.errors import PluginError, did_you_mean
from diffkit.spec.spec import Spec


class Component(Spec, ABC):
    """A direct subclass is a family (a contract); a final subclass of a family is a kind (a choice).

    A family sets `family`, its name in recipes, and declares abstract methods. A kind declares
    ``kind: Literal["name"] = "name"`` and its settings, and becomes usable in recipes once it is registered.

    A field annotated with a family accepts any kind registered at the time of validation: a kind's name
    (``"cosine"``), a table (``{kind = "cosine", offset = 0.01}``) or an instance.
    """

    family: ClassVar[str]
    number_means: ClassVar[tuple[str, str] | None] = None
    """The kind and the setting of it that a bare number in place of a table stands for, if any."""
    kinds: ClassVar[dict[str, type[Component]]]
    owners: ClassVar[dict[str, str]]
    _families: ClassVar[dict[str, type[Component]]] = {}

    kind: str
    """Which of the family's kinds this is."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if Component in cls.__bases__:
            cls.kinds, cls.owners = {}, {}
            Component._families[cls.family] = cls

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        if "kinds" not in vars(cls):  # a kind validates as itself, a family chooses
            schema: core_schema.CoreSchema = handler(source)
            return schema
        return core_schema.with_info_plain_validator_function(
            cls._choose,
            metadata={"family": cls},
            serialization=core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True),
        )

    @classmethod
    def _choose(cls, value: Any, info: ValidationInfo) -> Component:
        if isinstance(value, cls):
            return value
        table = {"kind": str(value)} if isinstance(value, str) else value
        if cls.number_means and isinstance(value, int | float) and not isinstance(value, bool):
            kind, setting = cls.number_means
            table = {"kind": kind, setting: value}
        if not isinstance(table, dict):
            raise PydanticCustomError("not_a_kind", "{text}", {"text": cls._expected()})
        if "kind" not in table:
            text = f"the setting 'kind' is required: {cls._expected()}"
            raise PydanticCustomError("no_kind", "{text}", {"text": text})
        name = table["kind"]
        if not isinstance(name, str) or name not in cls.kinds:
            text = f"no {cls.family} is called {name!r}.{did_you_mean(str(name), cls.kinds)} Known: {cls._known()}"
            raise PydanticCustomError("unknown_kind", "{text}", {"text": text})
        return cls.kinds[name].model_validate(table, context=info.context)

    @classmethod
    def _known(cls) -> str:
        return ", ".join(sorted(cls.kinds))

    @classmethod
    def _expected(cls) -> str:
        number = f", or a number, the {cls.number_means[1]} of '{cls.number_means[0]}'" if cls.number_means else ""
        return f"a {cls.family} is the name of a kind or a table with 'kind'{number}. Known: {cls._known()}"

    @classmethod
    def choose(cls, value: Any) -> Self:
        """Make a kind of this family from its name, its table or itself.

        Raises:
            pydantic.ValidationError: If no such kind is registered or a setting is wrong.
        """
        any_kind: Any = Annotated[cls, "any kind"]  # bare, the family would validate as the model it is
        adapter: TypeAdapter[Self] = TypeAdapter(any_kind)
        return adapter.validate_python(value)

    @classmethod
    def example_settings(cls) -> dict[str, Any]:
        """Return settings that make a working example, for tests over all kinds; empty where the defaults do."""
        return {}

    @classmethod
    def kind_name(cls) -> str:
        """Return the name of this kind in recipes."""
        return str(cls.model_fields["kind"].default)


def _dump(kind: Component, info: SerializationInfo) -> dict[str, Any]:
    return kind.model_dump(
        mode=info.mode,
        exclude_none=info.exclude_none,
        exclude_defaults=info.exclude_defaults,
        exclude_unset=info.exclude_unset,
    )


def families() -> dict[str, type[Component]]:
    """Return all families by name, in the order of the alphabet."""
    return dict(sorted(Component._families.items()))


def register(kinds: Iterable[type[Component]], *, owner: str) -> None:
    """Make kinds usable in recipes: all of them or, on an error, none.

    An owner who registers again, such as a plugin file that was loaded anew, replaces its own kinds.

    Args:
        kinds: Final subclasses of families.
        owner: Who provides them, for messages.

    Raises:
        PluginError: If something is not a kind, or two kinds or another owner's kind have one name.
    """
    kinds = list(kinds)
    claimed: dict[tuple[str, str], type[Component]] = {}
    for kind in kinds:
        _check_is_kind(kind, owner)
        by = kind.owners.get(kind.kind_name(), owner)
        first = claimed.setdefault((kind.family, kind.kind_name()), kind)
        if by != owner or first is not kind:
            raise PluginError(f"{kind.family} '{kind.kind_name()}' of {owner} is already provided by {by}")
    for kind in kinds:
        kind.kinds[kind.kind_name()] = kind
        kind.owners[kind.kind_name()] = owner


def unregister(owner: str) -> None:
    """Take all the kinds of an owner out again."""
    for family in families().values():
        for name in [name for name, by in family.owners.items() if by == owner]:
            del family.kinds[name], family.owners[name]


def _check_is_kind(kind: Any, owner: str) -> None:
    is_of_a_family = isinstance(kind, type) and issubclass(kind, Component) and hasattr(kind, "kinds")
    if not is_of_a_family or "kinds" in vars(kind):
        raise PluginError(f"{owner} registers {kind!r}, which is not a subclass of a component family")
    if not isinstance(kind.model_fields["kind"].default, str):
        raise PluginError(f'{owner} registers {kind.__name__} without a name: give it kind: Literal["name"] = "name"')
    missing = sorted(getattr(kind, "__abstractmethods__", ()))
    if missing:
        raise PluginError(f"{owner} registers {kind.__name__}, which lacks: {', '.join(missing)}")
