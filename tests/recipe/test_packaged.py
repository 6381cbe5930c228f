import pytest

from diffkit.cli.validate import build_on_meta
from diffkit.errors import UserError
from diffkit.recipe.load import read_document, validate
from diffkit.recipe.packaged import find_packaged, find_recipe, packaged_recipes

RECIPES = packaged_recipes()


def test_the_recipes_that_diffkit_brings():
    assert list(RECIPES) == sorted(RECIPES)
    assert set(RECIPES) >= {"quickstart", "fashion_mnist", "ddpm_cifar", "ddpm_scratch"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_called_as_its_file_and_its_network_can_be_built(name, packaged):
    recipe = packaged(name)
    assert recipe.name == name
    network = build_on_meta(recipe)
    assert all(parameter.is_meta for parameter in network.parameters())


def test_the_papers_model_has_the_papers_size():
    network = build_on_meta(validate(read_document(RECIPES["ddpm_cifar"]), "ddpm_cifar"))
    assert sum(parameter.numel() for parameter in network.parameters()) == 35_746_307


def test_what_a_name_stands_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").touch()
    run = tmp_path / "runs" / "x-1"
    run.mkdir(parents=True)
    (run / "recipe.toml").touch()
    (tmp_path / "plain").touch()
    assert find_recipe("quickstart", RECIPES) == RECIPES["quickstart"]
    assert find_recipe("mine.toml", RECIPES).samefile(tmp_path / "mine.toml")
    assert find_recipe("runs/x-1", RECIPES).samefile(run / "recipe.toml")
    assert find_recipe("plain", RECIPES).samefile(tmp_path / "plain")


def test_a_file_goes_before_a_packaged_recipe_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    assert find_recipe("quickstart", RECIPES) == RECIPES["quickstart"]
    (tmp_path / "ddpm_cifar").touch()
    assert find_recipe("ddpm_cifar", RECIPES).samefile(tmp_path / "ddpm_cifar")


def test_nothing_of_this_name():
    packaged = f"Packaged: {', '.join(RECIPES)}"
    with pytest.raises(UserError) as caught:
        find_packaged("quickstat", RECIPES)
    assert str(caught.value) == f"no recipe is called 'quickstat'. Did you mean 'quickstart'? {packaged}"
    with pytest.raises(UserError) as caught:
        find_recipe("zzz.toml", RECIPES)
    assert str(caught.value) == f"zzz.toml: no such recipe file. {packaged}"
