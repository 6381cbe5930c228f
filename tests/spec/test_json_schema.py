import jsonschema
import pytest

from diffkit.spec import json_schema, register


def checker(table):
    schema = json_schema(table)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


GOOD = [
    {"schedule": "linear"},
    {"schedule": {"kind": "linear", "start": 0.5}},
    {"schedule": "linear", "net": {"block": {"kind": "twice", "of": {"kind": "twice", "of": "resnet"}}}},
    {"schedule": "linear", "net": {"stages": ["resnet", {"kind": "resnet", "groups": 2}], "root": "data"}},
]
BAD = [
    {},
    {"schedule": {}},
    {"schedule": {"start": 0.5}},
    {"schedule": "lineal"},
    {"schedule": {"kind": "linear", "start": 2}},
    {"schedule": {"kind": "linear", "stop": 0.5}},
    {"schedule": "linear", "net": {"block": "twice"}},  # 'of' is required
    {"schedule": "linear", "net": {"block": {"kind": "wave"}}},
    {"schedule": "linear", "net": {"width": "64"}},
    {"schedule": "linear", "nett": {}},
]


@pytest.mark.parametrize("document", GOOD)
def test_what_validates_fits_the_schema(world, document):
    world.Root.model_validate(document)
    checker(world.Root).validate(document)


@pytest.mark.parametrize("document", BAD)
def test_what_does_not_validate_does_not_fit(world, document):
    with pytest.raises(ValueError, match="validation error"):
        world.Root.model_validate(document)
    assert not checker(world.Root).is_valid(document)


def test_a_late_plugins_kind_is_in_it(world):
    document = {"schedule": "linear", "net": {"block": {"kind": "twice", "of": "wave"}}}
    assert not checker(world.Root).is_valid(document)
    register([world.Wave], owner="wavelets")
    checker(world.Root).validate(document)


def test_settings_carry_their_descriptions(world):
    schema = json_schema(world.Root)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    resnet = next(table for table in schema["$defs"].values() if table.get("title") == "Resnet")
    assert resnet["properties"]["groups"]["description"] == "Number of groups."
    assert resnet["required"] == ["kind"]
