"""Checkpoints that are damaged, missing a file, of a newer diffkit or of another recipe, as a training meets them.

Each kind of damage to each file is in `tests/storage/test_checkpoint.py`.
"""

import json
import shutil

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def copy(recipe, whole, tmp_path):
    """A copy of the whole run, to be damaged. Its checkpoints are of steps 4 and 6."""
    recipe()
    return shutil.copytree(whole, tmp_path / "run")


GO_ON = ["train", "tiny.toml", "--run", "run", "--resume"]


def names_in(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def cut(file):
    file.write_bytes(file.read_bytes()[:-10])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def lose(file):
    file.unlink()


@pytest.mark.parametrize(
    ("damage", "name"), [(cut, "optimizer.safetensors"), (flip, "model.safetensors"), (lose, "ema.safetensors")]
)
def test_a_damaged_one_is_kept_aside_and_the_one_before_used(copy, diffkit, same_run, whole, damage, name):
    damage(copy / "checkpoints/step-00000006" / name)
    done = diffkit(*GO_ON)
    assert done.code == 0
    assert f"passed over: run/checkpoints/step-00000006/{name}: " in done.err
    assert "kept as run/checkpoints/damaged-step-00000006" in done.err
    same_run(copy, whole)
    assert names_in(copy) == ["damaged-step-00000006", "step-00000004", "step-00000006"]


def test_a_damaged_one_never_makes_whole_ones_go(copy, diffkit, steps_of, same_run, whole):
    """Counted as the newest, it would stay, and the whole ones be deleted as the older ones."""
    flip(copy / "checkpoints/step-00000006/model.safetensors")
    assert diffkit(*GO_ON, "train.keep_last=1", "train.steps=5", "train.checkpoint_every=1").code == 0
    assert steps_of(copy) == [5]
    assert diffkit(*GO_ON).code == 0
    same_run(copy, whole)
    flip(copy / "checkpoints/step-00000006/model.safetensors")
    assert diffkit(*GO_ON).code == 0
    assert names_in(copy)[:2] == ["damaged-step-00000006", "damaged-step-00000006-2"]


def test_where_all_are_damaged_nothing_begins_anew(copy, diffkit):
    for name in ("step-00000004", "step-00000006"):
        cut(copy / "checkpoints" / name / "model.safetensors")
    before = (copy / "metrics.jsonl").read_bytes()
    done = diffkit(*GO_ON)
    message = "Error: run/checkpoints: all 2 checkpoints are damaged: mend one, or start a new run"
    assert (done.code, done.err.splitlines()[-1]) == (2, message)
    assert (copy / "metrics.jsonl").read_bytes() == before
    assert names_in(copy) == ["step-00000004", "step-00000006"]


def test_one_of_a_newer_diffkit_is_refused_and_kept(copy, diffkit):
    """The one before it is not used in its place, or the newer one would be written over."""
    file = copy / "checkpoints/step-00000006/state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2, "version": "9.0"}))
    before = file.read_bytes()
    for command in (GO_ON, ["sample", "run", "--count", "1"]):
        done = diffkit(*command)
        assert done.code == 2
        assert done.err.startswith("Error: run/checkpoints/step-00000006: written by diffkit 9.0, and this is ")
    assert file.read_bytes() == before


@pytest.mark.parametrize("other", ["seed=3", "model.channels=16"])
def test_one_of_another_recipe_is_refused(copy, recipe, diffkit, tmp_path, other):
    recipe(other)
    assert diffkit("train", "tiny.toml", "--run", "other", "train.steps=8").code == 0
    shutil.copytree(tmp_path / "other/checkpoints/step-00000008", copy / "checkpoints/step-00000008")
    recipe("train.steps=10")
    done = diffkit(*GO_ON)
    key = other.partition("=")[0]
    assert done.code == 2
    assert done.err.startswith("Error: run/checkpoints/step-00000008/model.safetensors: 1 problem\n  " + key)
    assert names_in(copy) == ["step-00000004", "step-00000006", "step-00000008"]


def test_a_lost_recipe_is_told_by_the_checkpoints(copy, recipe, diffkit, same_run, whole):
    (copy / "recipe.toml").unlink()
    done = diffkit("train", "tiny.toml", "--run", "run")
    message = "Error: run: holds a run already: go on with --resume, or name another folder\n"
    assert (done.code, done.err) == (2, message)
    recipe("seed=3")
    assert diffkit(*GO_ON).code == 2
    (copy / "recipe.toml").unlink(missing_ok=True)
    recipe()
    shutil.rmtree(copy / "checkpoints/step-00000006")
    assert diffkit(*GO_ON).code == 0
    same_run(copy, whole)
