import pytest
from PIL import Image

from diffkit.errors import RecipeError
from diffkit.recipe.compare import ABSENT, Difference, differences
from diffkit.train.resume import check_same


def found(one, other, mode="json"):
    return [(at.key, at.one, at.other) for at in differences(one, other, mode)]


def test_equal_recipes_do_not_differ(tiny):
    assert differences(tiny(), tiny("train.steps=12")) == []


def test_each_setting_that_differs_in_the_order_of_the_recipe(tiny):
    assert found(tiny(), tiny("train.steps=13", "seed=3", "model.multipliers=[1,2,2]")) == [
        ("seed", 0, 3),
        ("model.multipliers", [1, 2], [1, 2, 2]),
        ("train.steps", 12, 13),
    ]


def test_settings_of_another_kind_are_not_there(tiny):
    assert found(tiny(), tiny("train.ema={kind='warmup', decay=0.9}")) == [("train.ema.kind", "decay", "warmup")]
    assert found(tiny("train.ema=none"), tiny()) == [
        ("train.ema.kind", "none", "decay"),
        ("train.ema.decay", ABSENT, 0.9),
    ]


def test_tables_in_an_array_go_by_their_numbers(tiny):
    grid = "{kind='sample_grid', every=3}"
    one, other = tiny(f"callbacks=[{grid}, {grid}]"), tiny(f"callbacks=[{grid}]")
    assert [(key, there) for key, _, there in found(one, other)] == [("callbacks.1", ABSENT)]
    assert found(one, tiny(f"callbacks=[{grid}, {{kind='sample_grid', every=4}}]")) == [("callbacks.1.every", 3, 4)]


@pytest.fixture
def moved(tiny, tmp_path):
    """Two recipes of data in two places."""
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "picture.png")
    unlabelled = "model.class_conditional=false"
    return [tiny(unlabelled, f"data={{kind='image_folder', root='{tmp_path / name}', size=8}}") for name in "ab"]


def test_values_of_python_or_of_json(moved, tmp_path):
    assert differences(*moved) == [Difference("data.root", tmp_path / "a", tmp_path / "b")]
    assert found(*moved) == [("data.root", str(tmp_path / "a"), str(tmp_path / "b"))]


def test_a_run_that_goes_on_names_each_setting_that_must_not_change(tiny, moved):
    free = ("train.steps=20", "callbacks=[{kind='sample_grid', every=3}]", "sample.steps=4", "train.keep_last=1")
    check_same(tiny(), tiny(*free), "recipe.toml")
    check_same(*moved, "recipe.toml")  # data moves
    with pytest.raises(RecipeError) as caught:
        check_same(tiny(), tiny(*free, "seed=3", "train.optimizer={kind='sgd', lr=1e-3}"), "recipe.toml")
    keys = [problem.key for problem in caught.value.problems]
    assert keys[:2] == ["seed", "train.optimizer.kind"]
    assert all(key.startswith("train.optimizer.") for key in keys[1:])
    assert "this run was started with 0: keep that" in str(caught.value)
