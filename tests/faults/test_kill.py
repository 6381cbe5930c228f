"""A process that is killed with SIGKILL, at each step of writing a checkpoint and deleting an old one, loses nothing.

Kills at random moments of a whole training are in `tests/train/test_kill.py`, hundreds of them in `tests/soak`.
"""

import shutil
import signal

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}


def on_files(event, arguments):
    """Tell operations on files that are still being written, or already being deleted, and their renames."""
    return event in OPERATIONS and any(".tmp-" in str(each) for each in arguments[:2])


@pytest.fixture
def run_to_step_4(recipe, diffkit, tmp_path):
    """A run with checkpoints of steps 2 and 4, whose next one makes that of step 2 go."""
    recipe("train.keep_last=2")
    assert diffkit("train", "tiny.toml", "--run", "start", "train.steps=4").code == 0
    return tmp_path / "start"


def test_at_each_operation_of_a_checkpoint_and_of_rotation(
    run_to_step_4, diffkit, die_at, steps_of, same_run, nothing_half_written, whole, tmp_path
):
    arguments = ["train", "tiny.toml", "--resume", "--run"]
    left = []
    for number in range(1, 100):
        folder = shutil.copytree(run_to_step_4, tmp_path / f"killed-{number}")
        done = diffkit(*arguments, folder.name, first=lambda n=number: die_at(n, on_files))
        if done.code == 0:
            break
        assert done.code == -signal.SIGKILL
        left.append(steps_of(folder))  # reads them all: each one that has its name is whole
        assert left[-1][-1] >= 4
        assert diffkit(*arguments, folder.name).code == 0
        same_run(folder, whole)
        assert nothing_half_written(folder)
    assert number > 10
    assert {tuple(steps) for steps in left} == {(2, 4), (2, 4, 6), (4, 6)}


EVALUATE = ["evaluate", "runs/tiny-1", "--count", "12", "--batch-size", "3", "--reference", "40"]
EVALUATE += ["--features", "pixels", "--device", "cpu", "--force", "-o", "found.json"]


def kept(event, arguments):
    """Tell renames of what is kept of an evaluation or a sweep."""
    return event == "os.rename" and any(part in str(arguments[1]) for part in ("evaluations", "unfinished", "cells"))


@pytest.mark.parametrize("number", [1, 3, 4])
def test_in_an_evaluation(here, diffkit, die_at, number):
    assert diffkit(*EVALUATE).code == 0
    whole = (here / "found.json").read_bytes()
    assert diffkit(*EVALUATE, first=lambda: die_at(number, kept)).code == -signal.SIGKILL
    assert len(list(here.glob("runs/tiny-1/evaluations/*/*.safetensors"))) == number - 1
    assert diffkit(*EVALUATE).code == 0
    assert (here / "found.json").read_bytes() == whole
    assert not list(here.glob("runs/tiny-1/evaluations/*"))
