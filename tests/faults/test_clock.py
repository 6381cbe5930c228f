"""A clock that is put back: runs keep their order, and nothing of a training depends on it."""

import os
import time

import pytest

from diffkit.storage.runs import newest_run

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

YEAR = 365 * 24 * 3600


def back_at_each_look():
    """Put the clock, as Python sees it, an hour back whenever somebody looks at it. The system's own isn't ours."""
    now = [time.time()]

    def seconds():
        now[0] -= 3600
        return now[0]

    time.time = seconds
    time.time_ns = lambda: int(seconds() * 1e9)


def test_a_training(recipe, diffkit, same_run, whole, tmp_path):
    arguments = ["train", recipe(), "--run", "run"]
    done = diffkit(*arguments, "train.steps=3", first=back_at_each_look)
    assert done.code == 0
    assert "-" not in done.err.partition("step 3/3")[2]  # no negative speed or time
    assert diffkit(*arguments, "--resume", first=back_at_each_look).code == 0
    same_run(tmp_path / "run", whole)


def test_the_run_started_last_is_the_newest(recipe, diffkit, tmp_path):
    """By the times of files, the clock was put back by a year after the first run had started."""
    arguments = ["train", recipe(), "train.steps=1"]
    assert diffkit(*arguments).out == "runs/tiny-1\n"
    future = time.time() + YEAR
    os.utime(tmp_path / "runs/tiny-1/recipe.toml", (future, future))
    assert diffkit(*arguments).out == "runs/tiny-2\n"
    assert newest_run().name == "tiny-2"
    assert diffkit(*arguments, "train.steps=2", "--resume").out == "runs/tiny-2\n"
    assert diffkit(*arguments, "--resume", "--run", "runs/tiny-1").code == 0
    assert newest_run().name == "tiny-1"
