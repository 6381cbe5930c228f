"""A run folder that cannot be written to: a message, and nothing is lost."""

import ctypes

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

DAC_OVERRIDE, DAC_READ_SEARCH = 1, 2
"""Capabilities of root's, by which permissions are nothing to it (capabilities(7))."""


def without_roots_rights():
    """Let permissions count for this process, also where it is root's."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the third version, this process
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable ones, twice 32 bits
    assert libc.capget(header, sets) == 0
    sets[0] &= ~(1 << DAC_OVERRIDE | 1 << DAC_READ_SEARCH)
    assert libc.capset(header, sets) == 0


@pytest.fixture
def folder(tmp_path):
    """A folder whose permissions a test changes."""
    folder = tmp_path / "folder"
    folder.mkdir()
    yield folder
    folder.chmod(0o755)


def test_a_new_run(recipe, diffkit, folder):
    recipe()
    folder.chmod(0o555)
    done = diffkit("train", "tiny.toml", "--run", "folder/run", first=without_roots_rights)
    assert (done.code, done.err) == (2, "Error: folder/run: Permission denied\n")


def test_a_run_that_goes_on(recipe, diffkit, folder, steps_of):
    arguments = ["train", recipe(), "--run", "folder"]
    assert diffkit(*arguments, "train.steps=2").code == 0
    folder.chmod(0o555)
    done = diffkit(*arguments, "--resume", first=without_roots_rights)
    assert (done.code, done.err) == (2, "Error: folder/recipe.toml: Permission denied\n")
    assert steps_of(folder) == [2]


def test_a_run_that_loses_the_right(recipe, diffkit, at, folder, steps_of, same_run, whole):
    def checkpoint(event, arguments):
        return event == "os.mkdir" and ".tmp-" in str(arguments[0])

    def first():
        without_roots_rights()
        at(2, checkpoint, lambda: (folder / "run/checkpoints").chmod(0o555))

    arguments = ["train", recipe(), "--run", "folder/run"]
    done = diffkit(*arguments, first=first)
    assert done.code == 2
    assert done.err.splitlines()[-1] == (
        "Error: folder/run/checkpoints/step-00000004: Permission denied. The last good checkpoint is "
        "folder/run/checkpoints/step-00000002: once it can be written, go on with --run folder/run --resume"
    )
    assert steps_of(folder / "run") == [2]
    (folder / "run/checkpoints").chmod(0o755)
    assert diffkit(*arguments, "--resume").code == 0
    same_run(folder / "run", whole)


def test_samples_of_a_run(here, folder, diffkit):
    run = here / "runs/tiny-1"
    run.chmod(0o555)
    done = diffkit("sample", "runs/tiny-1", "--count", "2", first=without_roots_rights)
    assert (done.code, done.err) == (2, "Error: runs/tiny-1/samples: Permission denied\n")
    done = diffkit("sample", "runs/tiny-1", "--count", "2", "--out", "folder/samples", first=without_roots_rights)
    assert done.code == 0
    run.chmod(0o755)


def test_a_file_system(recipe, diffkit, disk, steps_of):
    arguments = ["train", recipe(), "--run", "disk/run"]
    disk.set("ro")
    done = diffkit(*arguments)
    assert (done.code, done.err) == (2, "Error: disk/run: Read-only file system\n")
    disk.set("rw")
    assert diffkit(*arguments, "train.steps=2").code == 0
    disk.set("ro")
    done = diffkit(*arguments, "--resume")
    assert (done.code, done.err) == (2, "Error: disk/run/.lock: Read-only file system\n")
    assert steps_of(disk.folder / "run") == [2]
