import copy
import json
import tomllib

import jsonschema
import pytest

from diffkit.recipe.packaged import packaged_recipes
from diffkit.recipe.write import to_toml

RECIPES = {name: tomllib.loads(file.read_text()) for name, file in packaged_recipes().items()}

PLUGIN = """
from typing import Literal

import diffkit


@diffkit.hookimpl
def register_components():
    from diffkit.callbacks.base import Callback

    class Bell(Callback):
        \"\"\"Rings.\"\"\"

        kind: Literal["bell"] = "bell"
        every: int = 1
        \"\"\"Steps between two rings.\"\"\"

    return [Bell]
"""


@pytest.fixture
def checker(diffkit):
    schema = json.loads(diffkit("schema").out)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def changed(name, place, value):
    document = copy.deepcopy(RECIPES[name])
    table = document
    for part in place[:-1]:
        table = table[part]
    table[place[-1]] = value
    return document


@pytest.mark.parametrize("name", RECIPES)
def test_every_packaged_recipe_fits(checker, name):
    checker.validate(RECIPES[name])


@pytest.mark.parametrize("name", RECIPES)
def test_every_filled_recipe_fits(checker, packaged, name):
    checker.validate(tomllib.loads(to_toml(packaged(name))))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["nam"], "x"),
        (["name"], "a/b"),
        (["train", "step"], 1),
        (["train", "steps"], 0),
        (["train", "steps"], "1"),
        (["model", "chanels"], 8),
        (["model", "kind"], "vnet"),
        (["data"], "digit"),
        (["callbacks"], [{"kind": "bell"}]),
    ],
)
def test_what_does_not_validate_does_not_fit(checker, place, value):
    assert not checker.is_valid(changed("quickstart", place, value))


def test_an_installed_plugins_kinds_are_in_it(diffkit, install_plugin):
    install_plugin("bell", PLUGIN)
    schema = json.loads(diffkit("schema").out)
    recipe = changed("quickstart", ["callbacks"], [{"kind": "bell", "every": 3}])
    jsonschema.Draft202012Validator(schema).validate(recipe)
    bell = next(table for table in schema["$defs"].values() if table.get("title") == "Bell")
    assert bell["properties"]["every"]["description"] == "Steps between two rings."


def test_into_a_file(diffkit, tmp_path):
    file = tmp_path / "recipe.schema.json"
    assert diffkit("schema", "-o", file).out == f"{file}\n"
    assert json.loads(file.read_text())["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    done = diffkit("schema", "-o", file)
    assert (done.code, done.err) == (2, f"Error: {file}: exists already; --force overwrites it\n")
