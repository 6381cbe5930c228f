"""Snapshots of the averages: each is kept once, whole and for good, whatever stops the run."""

import json

import pytest
import torch
from safetensors.torch import load_file

from diffkit.errors import Diverged
from diffkit.plugins.hookspecs import hookimpl
from diffkit.plugins.manager import Plugins
from diffkit.storage.checkpoint import list_checkpoints, read_checkpoint, verify_averages
from diffkit.train.hooks import Hooks
from diffkit.train.loop import fit, train
from diffkit.train.run import TrainingRun
from diffkit.train.stop import StopRequest

POWER = 'train.ema={kind="power", lengths=[0.1, 0.05], snapshots=4}'


def snapshots(folder):
    """Return all tensors of each snapshot, by step and file."""
    return {
        verify_averages(path): {file.name: load_file(file) for file in path.glob("*.safetensors")}
        for path in list_checkpoints(folder / "ema")
    }


def same(one, other):
    assert one.keys() == other.keys()
    for step, files in one.items():
        assert files.keys() == other[step].keys()
        for name, tensors in files.items():
            assert tensors.keys() == other[step][name].keys()
            assert all(torch.equal(tensors[key], other[step][name][key]) for key in tensors), (step, name)


class Killed(BaseException):
    """Ends a run at once, as SIGKILL does: nothing is written after it."""


class Killer:
    def __init__(self, step):
        self.step = step

    @hookimpl
    def on_train_step(self, run, step):
        if step == self.step:
            raise Killed


def kill_at(recipe, folder, step):
    plugins = Plugins()
    plugins.manager.register(Killer(step), "killer")
    with pytest.raises(Killed):
        train(recipe, folder, plugins=plugins.manager)


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    train(tiny(POWER), folder)
    return folder


def test_a_run_keeps_evenly_spaced_snapshots_of_all_lengths(whole):
    kept = snapshots(whole)
    assert list(kept) == [3, 6, 9, 12]
    assert all(files.keys() == {"ema.safetensors", "ema-0.05.safetensors"} for files in kept.values())
    assert len(list_checkpoints(whole / "checkpoints")) == 2  # the others were rotated away
    end = whole / "checkpoints/step-00000012"
    for name, tensors in kept[12].items():
        assert all(torch.equal(tensor, tensors[key]) for key, tensor in load_file(end / name).items())
    ours, theirs = (kept[12][name]["conv_in.weight"] for name in ("ema.safetensors", "ema-0.05.safetensors"))
    assert not torch.equal(ours, theirs)


def test_checkpoints_hold_all_averages_with_their_hashes(whole):
    folder = whole / "checkpoints/step-00000012"
    assert read_checkpoint(folder).averages.keys() == {"ema", "ema-0.05"}
    assert "ema-0.05.safetensors" in json.loads((folder / "state.json").read_text())["sha256"]


@pytest.mark.parametrize("step", [2, 6, 7, 9, 11])  # checkpoints are at 5, 10 and 12
def test_killed_and_resumed_the_snapshots_are_the_same(tiny, whole, tmp_path, step):
    recipe = tiny(POWER)
    kill_at(recipe, tmp_path, step)
    train(recipe, tmp_path, resume=True)
    same(snapshots(tmp_path), snapshots(whole))
    name = "step-00000012"
    for file in (whole / "checkpoints" / name).glob("*.safetensors"):
        ours, theirs = load_file(tmp_path / "checkpoints" / name / file.name), load_file(file)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_going_on_forgets_what_came_after_the_checkpoint(tiny, tmp_path):
    """The longer run has another learning rate, so its step 6 is not the one of before."""
    short, longer = (tiny(POWER, "train.lr_schedule=cosine", f"train.steps={steps}") for steps in (8, 24))
    kill_at(short, tmp_path, 7)
    assert list(snapshots(tmp_path)) == [2, 4, 6]
    train(longer, tmp_path, resume=True)
    assert list(snapshots(tmp_path)) == [2, 4, 6, 12, 18, 24]
    kill_at(short, tmp_path / "again", 7)
    assert not torch.equal(
        snapshots(tmp_path)[6]["ema.safetensors"]["conv_in.weight"],
        snapshots(tmp_path / "again")[6]["ema.safetensors"]["conv_in.weight"],
    )


def test_half_written_snapshots_are_cleared_away(tiny, tmp_path):
    recipe = tiny(POWER)
    kill_at(recipe, tmp_path, 4)
    (tmp_path / "ema/.tmp-0").mkdir()
    train(recipe, tmp_path, resume=True)
    assert sorted(path.name for path in (tmp_path / "ema").iterdir()) == [f"step-{step:08}" for step in (3, 6, 9, 12)]


def test_the_number_of_snapshots_may_change(tiny, tmp_path):
    kill_at(tiny(POWER), tmp_path, 6)
    train(tiny(POWER, "train.ema.snapshots=2"), tmp_path, resume=True)
    assert list(snapshots(tmp_path)) == [3, 6, 12]


def test_without_snapshots_there_is_no_folder(tiny, tmp_path):
    train(tiny(POWER, "train.ema.snapshots=0", "train.steps=2"), tmp_path)
    assert not (tmp_path / "ema").exists()


def test_weights_that_are_not_finite_are_no_snapshot(tiny, tmp_path):
    recipe = tiny(POWER)
    run = TrainingRun(recipe, tmp_path, recipe.data.info(), recipe.data.open(), torch.device("cpu"))
    with torch.no_grad():
        next(run.model.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="weights are no longer finite at step 3"):
        fit(run, Hooks(None, ()), StopRequest())
    assert not (tmp_path / "ema").exists()
