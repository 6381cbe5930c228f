"""A full disk stops a run with one message; what was there is there, and with room again it goes on to the same bits.

It is full for real: a small file system of the test's own, where one can be mounted, or else the system's limit on the
length of a file, which it reports in the same way.
"""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def limit(size):
    """Let no file of this process become longer."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def opens(name, mode):
    """Tell that a file of this name is opened."""
    return lambda event, arguments: event == "open" and str(arguments[0]).endswith(name) and arguments[1] == mode


@pytest.fixture
def short_run(recipe, diffkit, tmp_path):
    """A run with a checkpoint of step 2, that is to go on."""
    recipe()
    assert diffkit("train", "tiny.toml", "--run", "run", "train.steps=2").code == 0
    return tmp_path / "run"


GO_ON = ["train", "tiny.toml", "--run", "run", "--resume"]


def lines(done):
    return [line for line in done.err.splitlines() if not line.startswith("tiny: step ")]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_a_checkpoint(short_run, diffkit, steps_of, same_run, nothing_half_written, whole, name):
    size = (short_run / "checkpoints/step-00000002" / name).stat().st_size
    done = diffkit(*GO_ON, first=lambda: limit(size - 1))
    assert done.code == 2
    assert lines(done) == [
        "Error: run/checkpoints/step-00000004: File too large. The last good checkpoint is "
        "run/checkpoints/step-00000002: once it can be written, go on with --run run --resume"
    ]
    assert steps_of(short_run) == [2]
    assert nothing_half_written(short_run)
    assert diffkit(*GO_ON).code == 0
    same_run(short_run, whole)


def test_the_log(short_run, diffkit, at, steps_of, same_run, whole):
    size = (short_run / "metrics.jsonl").stat().st_size
    full = opens("metrics.jsonl", "a")
    done = diffkit(*GO_ON, "train.checkpoint_every=100", first=lambda: at(1, full, lambda: limit(size + 20)))
    assert done.code == 2
    assert lines(done) == [
        "Error: run/metrics.jsonl: File too large. The last good checkpoint is "
        "run/checkpoints/step-00000002: once it can be written, go on with --run run --resume"
    ]
    assert (short_run / "metrics.jsonl").stat().st_size == size + 20  # half a line
    assert steps_of(short_run) == [2]  # no checkpoint of a step that isn't logged
    assert diffkit(*GO_ON).code == 0
    same_run(short_run, whole)


def test_the_log_as_it_is_put_right_at_the_start(short_run, diffkit, at, same_run, whole):
    whole_log = (short_run / "metrics.jsonl").read_bytes()
    done = diffkit(*GO_ON, first=lambda: at(1, opens(".tmp-metrics.jsonl", "w"), lambda: limit(20)))
    assert (done.code, (short_run / "metrics.jsonl").read_bytes()) == (2, whole_log)
    assert lines(done)[0].startswith("Error: run/metrics.jsonl: File too large. The last good checkpoint is ")
    assert diffkit(*GO_ON).code == 0
    same_run(short_run, whole)


@pytest.mark.parametrize("room_again", [True, False])
def test_a_grid_of_samples_in_training(short_run, diffkit, at, steps_of, same_run, whole, room_again):
    def full():
        at(1, opens("step-00000003.png", "w+"), lambda: limit(20))
        if room_again:
            at(1, lambda event, arguments: event == "os.mkdir" and ".tmp-" in str(arguments[0]), lambda: limit(-1))

    grid = 'callbacks=[{kind = "sample_grid", every = 3, count = 4, steps = 2}]'
    done = diffkit(*GO_ON, grid, first=full)
    assert done.code == 2
    of_grid = "Error: callback 'sample_grid' (callbacks[0]) raised in on_train_step: run/samples/step-00000003.png: "
    of_checkpoint = "Error: run/checkpoints/step-00000003: File too large. The last good checkpoint is "
    assert lines(done)[0].startswith(of_grid if room_again else of_checkpoint)
    assert steps_of(short_run) == ([2, 3] if room_again else [2])
    assert diffkit(*GO_ON).code == 0
    same_run(short_run, whole)


@pytest.mark.parametrize("format", ["png", "npz"])
def test_a_sample(here, diffkit, format):
    done = diffkit("sample", "runs/tiny-1", "--format", format, "--count", "40", first=lambda: limit(80))
    name = {"png": "00000.png", "npz": "images.npy"}[format]
    assert done.code == 2
    assert done.err == f"Error: runs/tiny-1/samples/sample-1/{name}: File too large\n"


def test_what_is_printed():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "diffkit", "recipes"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "Error: No space left on device\n")


def test_a_file_system_that_fills_up(recipe, diffkit, disk, steps_of, same_run, nothing_half_written, whole):
    arguments = ["train", recipe(), "--run", "disk/run"]
    assert diffkit(*arguments, "train.steps=2").code == 0
    used = sum(file.stat().st_blocks * 512 for file in disk.folder.rglob("*"))
    disk.set(f"size={used + 65536}")
    done = diffkit(*arguments, "--resume")
    assert done.code == 2
    (said,) = lines(done)
    assert said.startswith("Error: disk/run/checkpoints/step-00000004: No space left on device. The last good ")
    assert steps_of(disk.folder / "run") == [2]
    assert nothing_half_written(disk.folder)
    disk.set("size=16m")
    assert diffkit(*arguments, "--resume").code == 0
    same_run(disk.folder / "run", whole)
