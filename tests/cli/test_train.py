"""``diffkit train``: what it makes, and every mistake's message."""

import pytest

from diffkit.recipe.write import to_toml


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def recipe(tiny, here):
    (here / "tiny.toml").write_text(to_toml(tiny("train.steps=2")))
    return "tiny.toml"


def test_runs_are_numbered(diffkit, recipe, here):
    first, second = diffkit("train", recipe), diffkit("train", recipe, "train.steps=1")
    assert (first.code, first.out) == (0, "runs/tiny-1\n")
    assert (second.code, second.out) == (0, "runs/tiny-2\n")
    assert "tiny: step 2/2  loss " in first.err
    assert (here / "runs/tiny-2/checkpoints/step-00000001").is_dir()


def test_resume_takes_the_newest_run_of_the_recipe(diffkit, recipe):
    diffkit("train", recipe)
    done = diffkit("train", recipe, "train.steps=3", "--resume")
    assert (done.code, done.out) == (0, "runs/tiny-1\n")
    assert "tiny: step 3/3" in done.err


def test_a_run_folder_stands_for_its_recipe(diffkit, recipe):
    diffkit("train", recipe)
    assert diffkit("train", "runs/tiny-1", "train.steps=4", "--resume", "--run", "runs/tiny-1").code == 0


def test_dry_run_opens_the_data_and_leaves_nothing(diffkit, recipe, here):
    done = diffkit("train", recipe, "--dry-run", "--device", "cpu")
    assert (done.code, done.out) == (0, "tiny: ok: 1797 images of 1×8×8, on cpu\n")
    assert not (here / "runs").exists()


def test_a_run_is_not_overwritten(diffkit, recipe):
    diffkit("train", recipe)
    done = diffkit("train", recipe, "--run", "runs/tiny-1")
    message = "Error: runs/tiny-1: holds a run already: go on with --resume, or name another folder\n"
    assert (done.code, done.err) == (2, message)


def test_nothing_to_resume(diffkit, recipe):
    done = diffkit("train", recipe, "--resume")
    assert done.code == 2
    assert done.err.startswith("Error: no run of 'tiny' under ")
    assert done.err.endswith(": train one first, with: diffkit train tiny\n")


def test_missing_data_leaves_no_run_folder(diffkit, recipe, here):
    done = diffkit("train", recipe, 'data={kind="arrays", path="nothing.npy"}')
    assert done.code == 2
    assert f"{here}/nothing.npy" in done.err
    assert not (here / "runs").exists()


def test_no_such_device(diffkit, recipe):
    done = diffkit("train", recipe, "--device", "warp")
    assert done.code == 2
    assert done.err.startswith("Error: device 'warp': ")


def test_a_changed_recipe_cannot_resume(diffkit, recipe):
    diffkit("train", recipe)
    done = diffkit("train", recipe, "train.batch_size=4", "--resume")
    assert done.code == 2
    assert "  train.batch_size = 4\n    this run was started with 8: keep that, or start a new run" in done.err


def test_divergence_exits_3(diffkit, recipe):
    done = diffkit("train", recipe, "train.optimizer.lr=1e30", "train.grad_clip=1e30", "train.steps=6")
    assert done.code == 3
    assert done.err.splitlines()[-1].startswith("Error: ")
    assert "try a lower learning rate" in done.err
