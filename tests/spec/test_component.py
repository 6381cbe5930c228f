import copy
import pickle
import tomllib
from typing import Literal

import pytest
from pydantic import ValidationError

from diffkit.errors import PluginError
from diffkit.spec import Component, families, problems_of, register, unregister


def problems(table, toml):
    with pytest.raises(ValidationError) as caught:
        table.model_validate(tomllib.loads(toml))
    return {problem.key: problem.message for problem in problems_of(caught.value)}


@pytest.mark.parametrize("schedule", ['"linear"', '{kind = "linear"}', '{kind = "linear", start = 1e-4}'])
def test_a_kind_is_named_by_itself_or_in_a_table(world, schedule):
    root = world.Root.model_validate(tomllib.loads(f"schedule = {schedule}"))
    assert root.schedule == world.Linear(start=1e-4)


def test_an_instance_is_taken_as_it_is(world):
    linear = world.Linear(start=0.5)
    assert world.Root(schedule=linear).schedule is linear
    assert world.Schedule.choose(linear) is linear


def test_choose_makes_a_kind_from_its_name(world):
    assert world.Block.choose("resnet") == world.Resnet()
    with pytest.raises(ValidationError, match="no test_block is called 'wav'"):
        world.Block.choose("wav")


def test_a_default_written_as_a_name_is_the_kind(world):
    assert world.Root(schedule="linear").net.block == world.Resnet()


def test_an_instance_of_another_family_is_refused(world):
    with pytest.raises(ValidationError, match="a test_schedule is the name of a kind or a table with 'kind'"):
        world.Root(schedule=world.Resnet())


def test_errors_name_the_place_and_the_nearest_name(world):
    got = problems(
        world.Root,
        'schedule={kind="lineal"}\n[net]\nwidht=1\nblock={kind="twice", of={kind="resnet", group=3, groups=0}}\n'
        'stages=["resnett"]',
    )
    assert got == {
        "schedule": "no test_schedule is called 'lineal'. Did you mean 'linear'? Known: linear",
        "net.block.of.groups": "should be greater than or equal to 1",
        "net.block.of.group": "unknown setting. Did you mean 'groups'? Allowed here: kind, groups",
        "net.stages[0]": "no test_block is called 'resnett'. Did you mean 'resnet'? Known: resnet, twice",
        "net.widht": "unknown setting. Did you mean 'width'? "
        "Allowed here: block, stages, width, rate, root, sizes, flag, mode",
    }


def test_a_table_without_kind(world):
    assert problems(world.Root, "schedule = {start = 0.1}") == {
        "schedule": "the setting 'kind' is required: a test_schedule is the name of a kind or a table with 'kind'. "
        "Known: linear"
    }


@pytest.mark.parametrize("value", ["3", "true", "[]", "1979-05-27"])
def test_what_is_no_kind_at_all(world, value):
    assert problems(world.Root, f"schedule = {value}") == {
        "schedule": "a test_schedule is the name of a kind or a table with 'kind'. Known: linear"
    }


def test_a_kind_that_is_no_text(world):
    assert problems(world.Root, "schedule = {kind = 3}") == {"schedule": "no test_schedule is called 3. Known: linear"}


@pytest.mark.parametrize("name", ["{x}", "{", "}{", "{0}", "[red]", "%s"])
def test_braces_survive(world, name):
    assert f"'{name}'" in problems(world.Root, f'schedule={{kind="{name}"}}')["schedule"]
    assert "unknown setting" in problems(world.Root, f'schedule="linear"\n"{name}"=1')[name]


def test_a_late_plugins_kind_joins_validation(world):
    toml = 'schedule="linear"\n[net]\nblock={kind="twice", of={kind="wave"}}'
    assert "no test_block is called 'wave'" in problems(world.Root, toml)["net.block.of"]
    register([world.Wave], owner="wavelets")
    root = world.Root.model_validate(tomllib.loads(toml))
    assert root.net.block.of == world.Wave()
    assert world.Block.owners["wave"] == "wavelets"
    unregister("wavelets")
    assert "no test_block is called 'wave'" in problems(world.Root, toml)["net.block.of"]


def test_registration_is_all_or_none(world):
    with pytest.raises(PluginError) as caught:
        register([world.Wave, world.Clash], owner="bad")
    assert str(caught.value) == "test_block 'resnet' of bad is already provided by world"
    assert set(world.Block.kinds) == {"resnet", "twice"}
    assert world.Block.owners["resnet"] == "world"


def test_one_owner_cannot_give_a_name_twice(world):
    class Again(world.Wave):
        """Another block named wave."""

    with pytest.raises(PluginError, match="test_block 'wave' of bad is already provided by bad"):
        register([world.Wave, Again], owner="bad")
    assert "wave" not in world.Block.kinds


def test_registering_again_changes_nothing(world):
    register([world.Linear, world.Resnet, world.Twice], owner="world")
    assert world.Block.kinds == {"resnet": world.Resnet, "twice": world.Twice}


def test_an_owner_who_registers_again_replaces_its_kinds(world):
    register([world.Wave], owner="wavelets")

    class Anew(world.Block):
        """The same, loaded anew."""

        kind: Literal["wave"] = "wave"

    register([Anew], owner="wavelets")
    assert world.Block.kinds["wave"] is Anew


def test_what_is_no_kind_cannot_be_registered(world):
    class Abstract(world.Block):
        kind: Literal["abstract"] = "abstract"

    Abstract.__abstractmethods__ = frozenset({"build"})

    class Nameless(world.Block):
        pass

    for wrong, message in {
        int: "registers <class 'int'>, which is not a subclass of a component family",
        3: "registers 3, which is not a subclass of a component family",
        world.Block: "which is not a subclass of a component family",
        Component: "which is not a subclass of a component family",
        Nameless: 'registers Nameless without a name: give it kind: Literal["name"] = "name"',
        Abstract: "registers Abstract, which lacks: build",
    }.items():
        with pytest.raises(PluginError) as caught:
            register([world.Wave, wrong], owner="bad")
        assert message in str(caught.value)
        assert "wave" not in world.Block.kinds


def test_families_are_in_the_order_of_the_alphabet(world):
    assert list(families()) == sorted(families())
    assert families()["test_block"] is world.Block


def test_round_trips(world):
    root = world.Root(
        schedule=world.Linear(start=0.1),
        net=world.Net(stages=(world.Resnet(), world.Twice(of=world.Resnet(groups=2))), rate=1),
    )
    assert world.Root.model_validate(root.model_dump()) == root
    assert world.Root.model_validate_json(root.model_dump_json()) == root
    assert pickle.loads(pickle.dumps(root)) == copy.deepcopy(root) == root
    assert hash(root) == hash(copy.deepcopy(root))
    assert root != root.model_copy(update={"schedule": world.Linear()})


def test_a_dump_holds_the_settings_of_the_chosen_kind(world):
    assert world.Root(schedule="linear").model_dump()["net"]["block"] == {"kind": "resnet", "groups": 32}


def test_specs_are_frozen(world):
    with pytest.raises(ValidationError, match="frozen"):
        world.Linear().start = 0.5
