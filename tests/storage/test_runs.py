"""Run folders: their numbers, the newest, and the lock."""

import os
import shutil
import subprocess
import sys

import pytest

from diffkit.errors import CheckpointError, UserError
from diffkit.storage.runs import find_weights, locked, new_run, newest_run


def make(root, name, age):
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text("")
    os.utime(folder / "recipe.toml", (1000 - age, 1000 - age))
    return folder


def test_numbers_go_up_and_are_never_used_again(tmp_path):
    assert new_run("a", tmp_path / "runs") == tmp_path / "runs" / "a-1"
    for name in ("a-1", "a-9", "b-12", "a-x"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert new_run("a", tmp_path / "runs").name == "a-10"


def test_the_newest_run_is_the_one_started_last(tmp_path):
    make(tmp_path, "a-2", age=30)
    last = make(tmp_path, "b-1", age=10)
    older = make(tmp_path, "a-1", age=20)
    assert newest_run(tmp_path) == last
    assert newest_run(tmp_path, "a") == older


def test_no_run_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match=r"no run under .*: train one first, with: diffkit train quickstart"):
        newest_run(tmp_path)


def test_a_misspelt_run_names_the_nearest(tmp_path):
    make(tmp_path, "quickstart-1", age=0)
    with pytest.raises(CheckpointError, match=r"no such run or checkpoint\. Did you mean 'quickstart-1'\?"):
        find_weights(tmp_path / "quikstart-1", "ema")


def test_a_run_without_checkpoints_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        find_weights(make(tmp_path, "a-1", age=0), "ema")


def test_the_lock_keeps_another_process_out_and_ends_with_it(tmp_path):
    code = (
        "import sys, pathlib; from diffkit.storage.runs import locked\n"
        f"with locked(pathlib.Path({str(tmp_path)!r})):\n"
        "    print('in', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(UserError, match="another process is training in this folder"), locked(tmp_path):
            pass
        other.kill()
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("place", ["", "ema.safetensors"])
def test_a_damaged_file_is_found_also_where_a_checkpoint_or_a_file_is_named(trained, tmp_path, place):
    folder = tmp_path / "step-00000012"
    shutil.copytree(trained / "checkpoints" / folder.name, folder)
    assert find_weights(folder / place, "ema") == folder / "ema.safetensors"
    file = folder / "ema.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"ema\.safetensors: damaged: its SHA-256 is not the one in state\.json"):
        find_weights(folder / place, "ema")
    (folder / "state.json").unlink()  # alone, the file can only be taken at its word
    assert find_weights(folder / place, "ema") == file
