"""One of several processes dies: the others end within seconds, and any number of them goes on.

That an error in one is said once, and that one which hangs ends too, is in `tests/train/test_distributed.py`.
"""

import os
import signal
import time

import pytest

from diffkit.cli.main import run

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def test_the_first_is_killed_in_the_midst_of_a_checkpoint(
    recipe, together, diffkit, die_at, steps_of, nothing_half_written, tmp_path
):
    def second_checkpoint(event, arguments):
        return event == "os.rename" and "step-00000004" in str(arguments[1])

    def job():
        if os.environ["RANK"] == "0":
            die_at(1, second_checkpoint)
        run(["train", "tiny.toml", "--run", "run", "--device", "cpu"])

    recipe("model.resnet.dropout=0.0")
    began = time.monotonic()
    assert together(2, job) == [-signal.SIGKILL, 1]
    assert time.monotonic() - began < 60  # seconds, but for a busy machine
    said = (tmp_path / "err-1").read_text()
    assert said.startswith("Error: lost contact with another process, which was killed or whose machine is gone: ")
    assert "Traceback" not in said
    assert steps_of(tmp_path / "run") == [2]
    assert diffkit("train", "tiny.toml", "--run", "run", "--resume").code == 0
    assert steps_of(tmp_path / "run") == [4, 6]
    assert nothing_half_written(tmp_path / "run")
