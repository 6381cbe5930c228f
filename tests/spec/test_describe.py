from pathlib import Path

from diffkit.spec import describe_kind
from diffkit.spec.describe import describe_settings


def test_a_kind_is_described_by_itself(world):
    info = describe_kind(world.Resnet)
    assert (info.family, info.kind, info.owner) == ("test_block", "resnet", "world")
    assert info.summary == "A block."
    assert info.doc == "A block.\n\nIt has more to say."
    assert info.file.endswith("conftest.py")
    lines = Path(info.file).read_text().splitlines()
    assert lines[info.line - 1] == "class Resnet(Block):"


def test_settings_have_types_defaults_bounds_and_words(world):
    (groups,) = describe_kind(world.Resnet).settings
    assert (groups.name, groups.type, groups.default, groups.required) == ("groups", "integer", 32, False)
    assert groups.bounds == ">= 1, <= 512"
    assert groups.doc == "Number of groups."
    (of,) = describe_kind(world.Twice).settings
    assert (of.type, of.required) == ("test_block", True)


def test_types_are_in_words_of_toml(world):
    settings = {setting.name: (setting.type, setting.default_as_toml) for setting in describe_settings(world.Net)}
    assert settings == {
        "block": ("test_block", '"resnet"'),
        "stages": ("array of test_block", "[]"),
        "width": ("integer", "64"),
        "rate": ("number", "not set"),
        "root": ("path", "not set"),
        "sizes": ("array of integer", "[1, 2]"),
        "flag": ("true or false", "false"),
        "mode": ('"a" or "b"', '"a"'),
    }
    assert {s.name: s.type for s in describe_settings(world.Root)} == {"schedule": "test_schedule", "net": "table"}


def test_a_kind_made_without_a_file_is_described_too(world):
    namespace = {"Block": world.Block}
    exec('from typing import Literal\nclass X(Block):\n    kind: Literal["x"] = "x"', namespace)
    assert describe_kind(namespace["X"]).line == 0
