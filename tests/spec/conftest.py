"""A little world of families and kinds that has nothing to do with diffusion."""

from types import SimpleNamespace
from typing import Literal

import pytest
from pydantic import Field

from diffkit.spec import Component, FilePath, Many, Spec, register, unregister


class Schedule(Component):
    family = "test_schedule"


class Linear(Schedule):
    """A straight line."""

    kind: Literal["linear"] = "linear"
    start: float = Field(1e-4, gt=0, lt=1)
    """Where it starts."""


class Block(Component):
    family = "test_block"


class Resnet(Block):
    """A block.

    It has more to say.
    """

    kind: Literal["resnet"] = "resnet"
    groups: int = Field(32, ge=1, le=512)
    """Number of groups."""


class Twice(Block):
    """Another block, two times."""

    kind: Literal["twice"] = "twice"
    of: Block
    """What is doubled."""


class Wave(Block):
    """A block that a plugin brings late."""

    kind: Literal["wave"] = "wave"


class Clash(Block):
    """A block whose name is taken."""

    kind: Literal["resnet"] = "resnet"


class Net(Spec):
    block: Block = Field("resnet")
    stages: Many[Block] = ()
    width: int = Field(64, ge=1)
    rate: float | None = None
    root: FilePath | None = None
    sizes: Many[int] = Field((1, 2), min_length=2, max_length=3)
    flag: bool = False
    mode: Literal["a", "b"] = "a"


class Root(Spec):
    schedule: Schedule
    net: Net = Field({})


FAMILIES = {family.family: family for family in (Schedule, Block)}
for name in FAMILIES:  # only tests of this folder may see them
    del Component._families[name]

WORLD = SimpleNamespace(
    Schedule=Schedule,
    Linear=Linear,
    Block=Block,
    Resnet=Resnet,
    Twice=Twice,
    Wave=Wave,
    Clash=Clash,
    Net=Net,
    Root=Root,
)


@pytest.fixture
def world(monkeypatch):
    for name, family in FAMILIES.items():
        monkeypatch.setitem(Component._families, name, family)
    register([Linear, Resnet, Twice], owner="world")
    yield WORLD
    for owner in ("world", "wavelets", "bad"):
        unregister(owner)
