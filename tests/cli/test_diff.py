import json

FLOW = """
name = "mine"
[data]
kind = "digits"
[process]
kind = "flow"
[objective]
prediction = "flow"
[model]
kind = "unet"
[train]
steps = 1
"""


def test_two_recipes_side_by_side(diffkit, recipe_file):
    file = recipe_file(FLOW)
    done = diffkit("diff", "quickstart", file)
    lines = [line.split() for line in done.out.splitlines()]
    assert done.code == 0
    assert lines[0] == ["setting", "quickstart", str(file)]
    assert ["name", '"quickstart"', '"mine"'] in lines
    assert ["process.kind", '"ddpm"', '"flow"'] in lines
    assert ["process.shift", "1.0"] in lines  # a default, and no setting of ddpm
    assert not any(line[0] == "data.kind" for line in lines)


def test_a_run_and_its_recipe(diffkit, here):
    copy = here / "copy.toml"
    copy.write_text((here / "runs/tiny-1/recipe.toml").read_text())
    assert diffkit("diff", "runs/tiny-1", copy).out == "no setting differs\n"
    copy.write_text(copy.read_text().replace("batch_size = 8", "batch_size = 9", 1))
    assert json.loads(diffkit("diff", "runs/tiny-1", copy, "--json").out) == [
        {"setting": "train.batch_size", "a": 8, "b": 9}
    ]


def test_a_setting_that_is_missing_in_one_is_missing_in_json(diffkit, here):
    copy = here / "copy.toml"
    text = (here / "runs/tiny-1/recipe.toml").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("ema = ")]
    copy.write_text(text.replace(line, 'ema = "none"'))
    found = json.loads(diffkit("diff", "runs/tiny-1", copy, "--json").out)
    assert found == [{"setting": "train.ema.kind", "a": "decay", "b": "none"}, {"setting": "train.ema.decay", "a": 0.9}]


def test_a_recipe_that_is_none(diffkit):
    done = diffkit("diff", "quickstart", "quickstrat")
    assert done.code == 2
    assert "no recipe is called 'quickstrat'. Did you mean 'quickstart'?" in done.err
