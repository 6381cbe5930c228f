import tomllib

import pytest

from diffkit.recipe.load import validate
from diffkit.recipe.packaged import packaged_recipes
from diffkit.recipe.write import to_toml

RECIPES = packaged_recipes()


@pytest.mark.parametrize("name", RECIPES)
def test_a_filled_recipe_is_the_same_recipe(diffkit, packaged, tmp_path, name):
    file = tmp_path / "recipe.toml"
    file.write_text(to_toml(packaged(name)))  # with pictures, where it wants the user's own
    done = diffkit("fill", file)
    assert (done.code, done.err) == (0, "")
    assert validate(tomllib.loads(done.out), name) == packaged(name)


def test_every_setting_is_there_with_its_meaning(diffkit):
    text = diffkit("fill", "quickstart").out
    assert "keep_last = 2 # Number of newest checkpoints to keep.\n" in text
    assert "precision = " in text


def test_overrides_are_written_in(diffkit):
    assert tomllib.loads(diffkit("fill", "quickstart", "train.steps=7").out)["train"]["steps"] == 7


def test_a_file_is_never_overwritten_unasked(diffkit, tmp_path):
    file = tmp_path / "filled.toml"
    done = diffkit("fill", "quickstart", "-o", file)
    assert (done.code, done.out) == (0, f"{file}\n")
    text = file.read_text()
    file.write_text("mine")
    done = diffkit("fill", "quickstart", "-o", file)
    assert (done.code, done.err) == (2, f"Error: {file}: exists already; --force overwrites it\n")
    assert file.read_text() == "mine"
    assert diffkit("fill", "quickstart", "-o", file, "--force").code == 0
    assert file.read_text() == text


def test_a_place_where_nothing_can_be_written(diffkit, tmp_path):
    file = tmp_path / "no" / "filled.toml"
    done = diffkit("fill", "quickstart", "-o", file)
    assert (done.code, done.err) == (2, f"Error: {file}: No such file or directory\n")
