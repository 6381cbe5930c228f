from diffkit.recipe.packaged import packaged_recipes

PLUGIN = """
from pathlib import Path
import diffkit


@diffkit.hookimpl
def register_recipes():
    return [Path({file!r})]
"""


def test_all_packaged_recipes_with_a_line_about_each(diffkit):
    done = diffkit("recipes")
    assert (done.code, done.err) == (0, "")
    lines = {line.split()[0]: line for line in done.out.splitlines()}
    assert set(lines) == set(packaged_recipes())
    assert lines["quickstart"].split(maxsplit=1)[1] == (
        "The quick start: handwritten digits of 8×8 pixels, by class, in about two minutes on two CPU cores."
    )
    for line in lines.values():
        assert line.endswith(".")


def test_a_plugins_recipe_is_listed_with_its_owner_and_can_be_used(diffkit, install_plugin, tmp_path):
    file = tmp_path / "swell.toml"
    file.write_text("# A recipe of the sea.\n" + packaged_recipes()["quickstart"].read_text())
    install_plugin("waves", PLUGIN.format(file=str(file)))
    assert any(line.endswith("  A recipe of the sea. [waves]") for line in diffkit("recipes").out.splitlines())
    assert diffkit("validate", "swell").code == 0
    assert diffkit("cp", "swell", tmp_path / "copy.toml").code == 0
    assert (tmp_path / "copy.toml").read_text() == file.read_text()
