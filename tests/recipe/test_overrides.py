import pytest

from diffkit.errors import UserError
from diffkit.recipe.overrides import apply_override
from diffkit.spec import CommandLineText


def document():
    return {
        "name": "x",
        "process": {"kind": "ddpm", "schedule": "linear"},
        "train": {"steps": 1},
        "callbacks": [{"kind": "sample_grid", "every": 1}, "jsonl"],
        "empty": [],
    }


def applied(override):
    tables = document()
    apply_override(tables, override)
    return tables


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.steps=100", ("train", "steps"), 100),
        ("train.steps = 1_000", ("train", "steps"), 1000),
        ("train.lr=1e-4", ("train", "lr"), 1e-4),
        ("name=word", ("name",), "word"),
        ("name=two words", ("name",), "two words"),
        ('name="3"', ("name",), "3"),
        ("name=a=b", ("name",), "a=b"),
        ("name=", ("name",), ""),
        ("name=1\nseed = 2", ("name",), "1\nseed = 2"),
        ("flag=true", ("flag",), True),
        ("sizes=[1, 2]", ("sizes",), [1, 2]),
        ('model={kind="unet", channels=8}', ("model",), {"kind": "unet", "channels": 8}),
        ("sample.sampler=ddim", ("sample",), {"sampler": "ddim"}),
        ("process.schedule.start=0.5", ("process", "schedule"), {"kind": "linear", "start": 0.5}),
        ("callbacks.0.every=5", ("callbacks", 0, "every"), 5),
        ("callbacks.1.flush=true", ("callbacks", 1), {"kind": "jsonl", "flush": True}),
        ("callbacks.1=progress", ("callbacks", 1), "progress"),
        ("name=[" * 2000, ("name",), "[" + "name=[" * 1999),
        ("name=" + "9" * 5000, ("name",), "9" * 5000),
    ],
)
def test_a_value_is_set(override, path, value):
    at = applied(override)
    for part in path:
        at = at[part]
    assert at == value
    assert type(at) in (type(value), CommandLineText)


def test_texts_are_marked_as_the_command_lines():
    value = applied('data={root="x", more=["y"]}')["data"]
    assert isinstance(value["root"], CommandLineText)
    assert isinstance(value["more"][0], CommandLineText)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps", "'train.steps': an override is key=value, such as train.steps=100"),
        ("=5", "'=5': an override is key=value, such as train.steps=100"),
        ("train..steps=5", "'train..steps=5': an override is key=value, such as train.steps=100"),
        (".=5", "'.=5': an override is key=value, such as train.steps=100"),
        ("train.steps.x=5", "'train.steps.x=5': train.steps is a value, not a table"),
        (
            "callbacks.2.every=5",
            "'callbacks.2.every=5': callbacks.2 must be the number of an item of the array: 0 to 1",
        ),
        ("callbacks.x=5", "'callbacks.x=5': callbacks.x must be the number of an item of the array: 0 to 1"),
        ("callbacks.-1=5", "'callbacks.-1=5': callbacks.-1 must be the number of an item of the array: 0 to 1"),
        ("callbacks.²=5", "'callbacks.²=5': callbacks.² must be the number of an item of the array: 0 to 1"),
        ("empty.0=5", "'empty.0=5': empty.0 must be the number of an item of the array: none, it is empty"),
    ],
)
def test_a_key_without_a_place(override, message):
    with pytest.raises(UserError) as caught:
        applied(override)
    assert str(caught.value) == message


def test_a_mistake_in_an_overridden_value_has_its_place(tiny):
    with pytest.raises(UserError, match=r"train.steps = \"many\"\n    should be a valid integer"):
        tiny("train.steps=many")
