import tomllib

import pytest
from pydantic import ValidationError

from diffkit.errors import Problem
from diffkit.spec import problems_of
from diffkit.spec.spec import dotted

SETTINGS = "block, stages, width, rate, root, sizes, flag, mode"


def problem(table, toml):
    with pytest.raises(ValidationError) as caught:
        table.model_validate(tomllib.loads(toml))
    (only,) = problems_of(caught.value)
    return str(only)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('width = "64"', '  width = "64"\n    should be a valid integer'),
        ("width = true", "  width = true\n    should be a valid integer"),
        ("width = 64.0", "  width = 64.0\n    should be a valid integer"),
        ("width = 0", "  width = 0\n    should be greater than or equal to 1"),
        ("width = []", "  width\n    should be a valid integer"),
        ('rate = "1e-4"', '  rate = "1e-4"\n    should be a valid number'),
        ("rate = true", "  rate = true\n    should be a valid number"),
        ("rate = nan", "  rate = nan\n    should be a finite number"),
        ("rate = inf", "  rate = inf\n    should be a finite number"),
        ("flag = 1", "  flag = 1\n    should be true or false"),
        ('flag = "true"', '  flag = "true"\n    should be true or false'),
        ("sizes = 1", "  sizes = 1\n    should be an array, such as [1, 2]"),
        ('sizes = [1, "2"]', '  sizes[1] = "2"\n    should be a valid integer'),
        ("sizes = [true, 1]", "  sizes[0] = true\n    should be a valid integer"),
        ("sizes = [1]", "  sizes\n    should have at least 2 items"),
        ("sizes = [1, 2, 3, 4]", "  sizes\n    should have at most 3 items"),
        ('mode = "c"', "  mode = \"c\"\n    should be 'a' or 'b'"),
        ("root = 3", '  root = 3\n    a path is written as text, such as "data/images"'),
        ('root = ""', '  root = ""\n    a path is written as text, such as "data/images"'),
        ("colour = 1", "  colour = 1\n    unknown setting. Allowed here: " + SETTINGS),
    ],
)  # fmt: skip
def test_what_is_wrong_what_is_allowed(world, toml, message):
    assert problem(world.Net, toml) == message


def test_a_table_where_one_is_needed(world):
    assert problem(world.Root, 'schedule = "linear"\nnet = 3') == "  net = 3\n    should be a table"


def test_a_required_setting(world):
    assert problem(world.Root, "") == "  schedule\n    this setting is required"
    assert problem(world.Twice, "") == "  of\n    this setting is required"


def test_an_integer_may_stand_for_a_float(world):
    assert world.Net(rate=1).rate == 1.0
    assert isinstance(world.Net(rate=1).rate, float)


def test_long_values_are_cut(world):
    shown = problem(world.Net, f'width = "{"x" * 1000}"').splitlines()[0]
    assert shown == '  width = "' + "x" * 76 + "..."


def test_all_problems_come_at_once(world):
    with pytest.raises(ValidationError) as caught:
        world.Net.model_validate({"width": 0, "rate": "x", "mode": "z", "what": 1})
    assert [found.key for found in problems_of(caught.value)] == ["width", "rate", "mode", "what"]


def test_places_are_written_as_in_a_recipe():
    assert dotted(("model", "levels", 1, "resnet")) == "model.levels[1].resnet"
    assert dotted(()) == ""
    assert str(Problem("", "all is lost")) == "  all is lost"
