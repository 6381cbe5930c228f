"""What the pages show of the command line is what the command line prints."""

import re
import shlex
from pathlib import Path

import pytest

from diffkit.cli.main import run
from diffkit.recipe.packaged import packaged_recipes

DOCS = Path(__file__).parents[2] / "docs"


def examples(page):
    """The commands of a page's console blocks, each with what it prints."""
    text = (DOCS / page).read_text()
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for part in block.split("$ diffkit ")[1:]:
            command, _, output = part.partition("\n")
            yield shlex.split(command), output


def pattern(output):
    """An expression for an output in which ``...`` stands for anything."""
    lines = [re.escape(line) for line in output.rstrip("\n").split("\n")]
    return "\n".join(lines).replace(r"\.\.\.", r"(.|\n)*?") + r"\s*"


def shown(arguments, capsys):
    with pytest.raises(SystemExit):
        run(arguments)
    printed = capsys.readouterr()
    return "\n".join(line.rstrip() for line in (printed.out + printed.err).split("\n"))


@pytest.fixture(autouse=True)
def in_a_folder(install_plugin, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_the_command_lines_page(capsys):
    found = list(examples("command-line.md"))
    assert len(found) >= 12
    for arguments, output in found:
        assert re.fullmatch(pattern(output), shown(arguments, capsys)), arguments


def test_the_recipes_page(capsys, tmp_path):
    text = packaged_recipes()["quickstart"].read_text()
    for right, wrong in {
        "\nchannels = ": "\nchanels = ",
        "\nsteps = 800\n": '\nsteps = "2000"\n',
        r"{ kind = \"adamw\".*?}": '"adm"',
        "\nevery = 400": "\nevery = 0",
    }.items():
        text = re.sub(right, wrong, text)
    (tmp_path / "my_digits.toml").write_text(text)
    ((arguments, output),) = examples("recipes.md")
    assert re.fullmatch(pattern(output), shown(arguments, capsys))


def test_the_recipe_on_the_recipes_page_is_one(capsys, tmp_path):
    recipe = re.findall(r"```toml\n(.*?)```", (DOCS / "recipes.md").read_text(), re.DOTALL)[0]
    (tmp_path / "my_digits.toml").write_text(recipe)
    assert shown(["validate", "my_digits.toml"], capsys).startswith("my_digits: ok, ")


def test_every_command_is_on_the_page():
    from diffkit.cli.main import COMMANDS

    page = (DOCS / "command-line.md").read_text()
    assert [name for name in COMMANDS if f"`{name}" not in page] == []
