import json
from pathlib import Path

import pytest

from diffkit.spec import families


def test_all_kinds_under_their_families(diffkit):
    done = diffkit("components")
    assert (done.code, done.err) == (0, "")
    for family in families().values():
        if family.kinds:
            assert f"\n{family.family}\n" in f"\n{done.out}"
        for kind in family.kinds:
            assert f"\n  {kind} " in done.out


def test_one_family(diffkit):
    lines = diffkit("components", "sampler").out.splitlines()
    assert lines[0] == "sampler"
    assert [line.split()[0] for line in lines[1:]] == sorted(families()["sampler"].kinds)


def test_one_kind_in_full(diffkit):
    lines = diffkit("components", "callback", "sample_grid").out.splitlines()
    assert lines[0] == "callback sample_grid, of diffkit"
    file, _, line = lines[1].rpartition(":")
    assert Path(file).read_text().splitlines()[int(line) - 1].startswith("class SampleGrid(")
    assert lines[5:7] == ["every = 5000  (integer, >= 1)", "    Steps between two grids."]


def test_json_is_complete(diffkit):
    infos = json.loads(diffkit("components", "--json").out)
    assert {(info["family"], info["kind"]) for info in infos} == {
        (family.family, kind) for family in families().values() for kind in family.kinds
    }
    for info in infos:
        assert list(info) == ["family", "kind", "owner", "doc", "file", "line", "settings"]
        assert info["owner"] == "diffkit"
        assert info["doc"]
        for setting in info["settings"]:
            assert list(setting) == ["name", "type", "default", "required", "bounds", "doc"]


def test_json_of_one_kind(diffkit):
    (info,) = json.loads(diffkit("components", "callback", "sample_grid", "--json").out)
    assert info["settings"][0] == {
        "name": "every",
        "type": "integer",
        "default": 5000,
        "required": False,
        "bounds": ">= 1",
        "doc": "Steps between two grids.",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["samplr"], "no family is called 'samplr'. Did you mean 'sampler'? Known: "),
        (["sampler", "ddmi"], "no sampler is called 'ddmi'. Did you mean 'ddim'? Known: consistency, ddim"),
        (["samplr", "ddim"], "no family is called 'samplr'. Did you mean 'sampler'? Known: "),
    ],
)
def test_unknown_names(diffkit, arguments, message):
    done = diffkit("components", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"Error: {message}")


PLUGIN = '''
from typing import Literal

import diffkit


@diffkit.hookimpl
def register_components():
    from diffkit.callbacks.base import Callback

    class Bell(Callback):
        """Rings."""

        kind: Literal["bell"] = "bell"

    return [Bell]
'''


@pytest.fixture
def bell(tmp_path):
    file = tmp_path / "bells.py"
    file.write_text(PLUGIN)
    return file


def test_a_plugins_kind_carries_its_owner(diffkit, bell):
    done = diffkit("components", "callback", "--plugin", bell)
    assert any(line.split() == ["bell", "Rings.", "[bells]"] for line in done.out.splitlines())
    full = diffkit("components", "callback", "bell", "--plugin", bell)
    assert full.out.startswith("callback bell, of bells\n")


def test_a_plugin_file_that_is_not_there(diffkit):
    done = diffkit("components", "--plugin", "gone.py")
    assert (done.code, done.err) == (2, "Error: gone.py: no such plugin file\n")
