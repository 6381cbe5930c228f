import pytest

MISTAKES = """\
name = "x"
[data]
kind = "digits"
[model]
kind = "unet"
chanels = 8
[train]
steps = "many"
[sample]
sampler = "ddmi"
"""


def test_a_good_recipe(diffkit):
    done = diffkit("validate", "ddpm_cifar")
    assert (done.code, done.out, done.err) == (0, "ddpm_cifar: ok, 35,746,307 parameters\n", "")


def test_overrides_are_checked_too(diffkit):
    assert diffkit("validate", "quickstart", "train.steps=10", "name=other").out.startswith("other: ok, ")
    done = diffkit("validate", "quickstart", "train.steps=0", "train.step=1")
    assert (done.code, done.out) == (2, "")
    assert "  train.steps = 0\n    should be greater than or equal to 1\n" in done.err
    assert "  train.step = 1\n    unknown setting. Did you mean 'steps'? Allowed here: steps, batch_size, " in done.err


def test_all_mistakes_at_once(diffkit, recipe_file):
    file = recipe_file(MISTAKES)
    done = diffkit("validate", file)
    assert (done.code, done.out) == (2, "")
    lines = done.err.splitlines()
    assert lines[0] == f"Error: {file}: 3 problems"
    assert lines[1] == "  model.chanels = 8"
    assert lines[2].startswith("    unknown setting. Did you mean 'channels'? Allowed here: kind, class_conditional, ")
    assert lines[3:5] == ['  train.steps = "many"', "    should be a valid integer"]
    assert lines[5] == '  sample.sampler = "ddmi"'
    assert lines[6].startswith("    no sampler is called 'ddmi'. Did you mean 'ddim'? Known: consistency, ddim")


def test_a_run_folder(diffkit, recipe_file, tmp_path):
    (tmp_path / "recipe.toml").write_text(diffkit("fill", "quickstart").out)
    assert diffkit("validate", tmp_path).out.startswith("quickstart: ok, ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quickstrat", "no recipe is called 'quickstrat'. Did you mean 'quickstart'? Packaged: "),
        ("x/quickstart.toml", "x/quickstart.toml: no such recipe file. Did you mean 'quickstart'? Packaged: "),
        ("", ".: this is a folder, not a recipe file"),
        ("x" * 5000, f"{'x' * 5000}: cannot be read: File name too long"),
    ],
)
def test_what_is_no_recipe(diffkit, monkeypatch, tmp_path, name, message):
    monkeypatch.chdir(tmp_path)
    done = diffkit("validate", name)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"Error: {message}")


def test_a_folder_does_not_hide_a_packaged_recipe(diffkit, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    assert diffkit("validate", "quickstart").code == 0


def test_a_network_that_no_machine_can_hold(diffkit):
    done = diffkit("validate", "quickstart", "model.channels=1_000_000_000_000", "model.norm=none")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Error: ")


def test_line_of_broken_toml(diffkit, recipe_file):
    file = recipe_file('name = "x"\nseed =\n')
    done = diffkit("validate", file)
    assert (done.code, done.err) == (2, f"Error: {file}: not valid TOML: invalid value (at line 2, column 7)\n")


def test_relative_paths_of_the_command_line_start_at_the_working_directory(diffkit, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = diffkit("validate", "quickstart", "data={kind='image_folder', size=8, root='pictures'}")
    assert done.code == 2
    assert str(tmp_path / "pictures") in done.err
