import pytest

from diffkit.recipe.packaged import packaged_recipes


def test_a_copy_is_the_recipe_and_says_where_it_is(diffkit, tmp_path):
    file = tmp_path / "mine.toml"
    done = diffkit("cp", "quickstart", file)
    assert (done.code, done.out, done.err) == (0, f"{file}\n", "")
    assert file.read_text() == packaged_recipes()["quickstart"].read_text()
    assert diffkit("validate", file).code == 0


def test_into_a_folder(diffkit, tmp_path):
    assert diffkit("cp", "quickstart", tmp_path).out == f"{tmp_path / 'quickstart.toml'}\n"
    assert (tmp_path / "quickstart.toml").is_file()


def test_never_over_a_file(diffkit, tmp_path):
    file = tmp_path / "quickstart.toml"
    file.write_text("mine")
    done = diffkit("cp", "quickstart", tmp_path)
    assert (done.code, done.out, done.err) == (2, "", f"Error: {file}: exists already; --force overwrites it\n")
    assert file.read_text() == "mine"
    assert diffkit("cp", "quickstart", tmp_path, "--force").code == 0
    assert file.read_text() == packaged_recipes()["quickstart"].read_text()


@pytest.mark.parametrize("name", ["quickstrat", "./quickstart.toml"])
def test_an_unknown_name(diffkit, tmp_path, name):
    done = diffkit("cp", name, tmp_path)
    assert done.code == 2
    assert done.err.startswith(f"Error: no recipe is called '{name}'. Did you mean 'quickstart'? Packaged: ")


def test_a_folder_that_is_not_there(diffkit, tmp_path):
    file = tmp_path / "no" / "mine.toml"
    done = diffkit("cp", "quickstart", file)
    assert (done.code, done.err) == (2, f"Error: {file}: No such file or directory\n")
