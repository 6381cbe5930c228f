from pathlib import Path

import pytest
from pydantic import ValidationError

from diffkit.spec import CommandLineText, resolve_path


def test_a_relative_path_starts_at_the_recipes_folder(world, tmp_path):
    net = world.Net.model_validate({"root": "data/x"}, context={"folder": tmp_path})
    assert net.root == tmp_path / "data/x"


def test_a_path_of_the_command_line_starts_at_the_working_directory(world, tmp_path):
    net = world.Net.model_validate({"root": CommandLineText("data/x")}, context={"folder": tmp_path})
    assert net.root == Path.cwd() / "data/x"
    assert world.Net(root="data/x").root == Path.cwd() / "data/x"


def test_absolute_paths_and_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/someone")
    assert resolve_path("/a/b", tmp_path) == Path("/a/b")
    assert resolve_path("~/b", tmp_path) == Path("/home/someone/b")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("~nobody-of-this-name/x", "the home of this user is not known: ~nobody-of-this-name"),
        ("a\0b", "a path has no NUL character"),
    ],
)
def test_what_cannot_be_a_path(world, path, message):
    with pytest.raises(ValidationError, match=message):
        world.Net(root=path)


def test_a_written_path_reads_back(world, tmp_path):
    net = world.Net(root=str(tmp_path))
    assert world.Net.model_validate_json(net.model_dump_json()) == net
