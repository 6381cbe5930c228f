"""The docstrings under settings."""

from typing import Literal

from pydantic import Field

from diffkit.spec import Component, Spec, setting_docs


class Base(Component):
    family = "test_documented"
    shared: int = 1
    """Inherited
    text."""


class Kind(Base):
    kind: Literal["x"] = "x"
    plain: int = 2
    described: int = Field(3, description="By the field.")
    last: int = 4
    """The last."""


class Again(Kind):
    last: int = 5


def test_texts_below_settings_are_read_also_of_parents():
    assert setting_docs(Kind) == {"shared": "Inherited text.", "described": "By the field.", "last": "The last."}


def test_a_setting_that_is_declared_anew_needs_its_own_text():
    assert "last" not in setting_docs(Again)


def test_a_class_without_a_file_has_none():
    space: dict = {"Spec": Spec}
    exec('class Made(Spec):\n    x: int = 1\n    """Text."""', space)
    assert setting_docs(space["Made"]) == {}
