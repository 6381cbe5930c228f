"""A run that is killed at any moment goes on to the same bits as one that never was."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

SLOW_ENOUGH = [
    "train.steps=60",
    "train.checkpoint_every=2",  # so that many kills hit a checkpoint that is being written
    "train.log_every=4",
    "train.batch_size=4",
]


def start(recipe, folder, *options):
    command = [sys.executable, "-m", "diffkit", "train", str(recipe), "--run", str(folder), *options, *SLOW_ENOUGH]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


@pytest.fixture
def recipe(tiny, tmp_path):
    from diffkit.recipe.write import to_toml

    file = tmp_path / "tiny.toml"
    # with a history in the checkpoint, which counts from about the thirtieth step, and two averages
    history = "objective.time_sampling={kind='importance', losses=2}"
    file.write_text(to_toml(tiny(history, "train.ema={kind='power', snapshots=20}")))
    return file


def newest(folder):
    return max((int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*")), default=0)


def wait_for_progress(folder, process):
    """Wait until the process has written a checkpoint of its own; False if it ended before."""
    before = newest(folder)
    while process.poll() is None:
        if newest(folder) > before:
            return True
        time.sleep(0.002)
    return False


def finish(process):
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


@pytest.mark.timeout(300)
def test_sigkill_at_random_moments(recipe, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(recipe, whole))

    moments, kills = random.Random(0), 0
    process = start(recipe, killed)
    while kills < 5 and wait_for_progress(killed, process):
        time.sleep(moments.uniform(0, 0.1))  # in a step, in a checkpoint, between them
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        process = start(recipe, killed, "--resume")
    finish(process)
    assert kills >= 3

    files = [file.relative_to(whole) for file in whole.glob("*/step-*/*.safetensors")]
    assert len(files) == 2 * 4 + 20 * 2  # checkpoints and snapshots
    for file in files:
        ours, theirs = load_file(killed / file), load_file(whole / file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_and_exits_130(recipe, tmp_path, number):
    process = start(recipe, tmp_path / "run")
    assert wait_for_progress(tmp_path / "run", process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted at step" in errors.decode()
    assert "Traceback" not in errors.decode()
