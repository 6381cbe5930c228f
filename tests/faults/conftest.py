"""Runs commands in processes that can be killed, limited and taken the disk from, and compares what they leave."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffkit.cli.main import run
from diffkit.recipe.write import to_toml
from diffkit.storage.checkpoint import list_checkpoints, read_checkpoint
from diffkit.train.loop import train

SETTINGS = [
    "train.steps=6",
    "train.checkpoint_every=2",
    "train.log_every=1",
    "train.keep_last=2",
    "train.batch_size=4",
    "process.steps=10",
]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def recipe(tiny: Any, tmp_path: Path) -> Callable[..., str]:
    """Writes the recipe of these tests, with ``key=value`` overrides, and returns its name."""

    def write(*overrides: str) -> str:
        (tmp_path / "tiny.toml").write_text(to_toml(tiny(*SETTINGS, *overrides)))
        return "tiny.toml"

    return write


@pytest.fixture(scope="session")
def whole(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the recipe that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(tiny(*SETTINGS), folder)
    return folder


@dataclass(frozen=True)
class Ended:
    """A process that ended.

    Attributes:
        code: Its exit code; less than 0 if a signal ended it.
        out: What it printed.
        err: What went to stderr.
    """

    code: int | None
    out: str
    err: str


class Command:
    """``diffkit ...`` in a process of its own: a copy of this one, so that nothing is imported anew.

    Args:
        arguments: The command's arguments.
        first: Called in the process before the command.
    """

    def __init__(self, *arguments: object, first: Callable[[], object] | None = None) -> None:
        (self._out, out), (self._err, err) = os.pipe(), os.pipe()

        def work() -> None:
            os.dup2(out, 1)  # pipes, since files count for the limits that tests set
            os.dup2(err, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            logging.root.handlers.clear()  # those of pytest, which would keep warnings from stderr
            if first is not None:
                first()
            try:
                run([str(argument) for argument in arguments])
            finally:
                sys.stdout.flush()
                sys.stderr.flush()

        self._process = multiprocessing.get_context("fork").Process(target=work)
        self._process.start()
        os.close(out)
        os.close(err)

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self._process.pid or 0, number)

    @property
    def is_running(self) -> bool:
        return self._process.is_alive()

    def ended(self, timeout: float = 60) -> Ended:
        """Wait for its end, which has to come."""
        self._process.join(timeout)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
            pytest.fail(f"the process did not end within {timeout} s")
        with os.fdopen(self._out) as out, os.fdopen(self._err) as err:
            return Ended(self._process.exitcode, out.read(), err.read())


@pytest.fixture
def diffkit() -> Callable[..., Ended]:
    """Runs a command line in a process of its own to its end."""

    def call(*arguments: object, first: Callable[[], object] | None = None) -> Ended:
        return Command(*arguments, first=first).ended()

    return call


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait for something that has to come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.005)


def steps_of(folder: Path) -> list[int]:
    """Return the steps of a run's whole checkpoints, each of which is read."""
    return [read_checkpoint(path).step for path in list_checkpoints(folder / "checkpoints")]


def log_of(folder: Path) -> list[dict[str, float]]:
    """Return a run's log, without what depends on the time it took."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def same_run(one: Path, other: Path) -> None:
    """Check that two runs ended at the same bits, and logged the same."""
    ours, theirs = (list_checkpoints(folder / "checkpoints")[-1] for folder in (one, other))
    assert ours.name == theirs.name
    names = sorted(file.name for file in theirs.glob("*.safetensors"))
    assert names == sorted(file.name for file in ours.glob("*.safetensors"))
    for name in names:
        our, their = load_file(ours / name), load_file(theirs / name)
        assert our.keys() == their.keys()
        assert all(torch.equal(tensor, their[key]) for key, tensor in our.items()), name
    assert log_of(one) == log_of(other)


def nothing_half_written(folder: Path) -> bool:
    """Return whether a run folder holds no temporary files."""
    return not list(folder.rglob(".tmp-*"))


class Disk:
    """A small file system in memory.

    Args:
        folder: Where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def set(self, options: str) -> None:
        """Change its size, or whether it can be written to: ``size=200k``, ``ro``."""
        subprocess.run(["mount", "-o", f"remount,{options}", self.folder], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A file system of its own; tests are skipped where none can be mounted, as without root's rights."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "diffkit-test", folder]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a file system of the test's own cannot be mounted here: {error}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


Counts = Callable[[str, tuple[Any, ...]], bool]
"""Tells from an audit event of Python's and its arguments whether to count it."""


def at(number: int, counts: Counts, act: Callable[[], object]) -> None:
    """Do something in this process just before its `number`-th operation of a kind, such as a rename of a file."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if counts(event, arguments):
            seen += 1
            if seen == number:
                act()

    sys.addaudithook(hook)


def die_at(number: int, counts: Counts, signal_number: int = signal.SIGKILL) -> None:
    """Send this process a signal just before its `number`-th operation of a kind."""
    at(number, counts, lambda: os.kill(os.getpid(), signal_number))


def helper(function: Callable[..., Any]) -> Any:
    """Make something known to tests by its name, as they cannot import it from here."""
    return pytest.fixture(scope="session", name=function.__name__.lower())(lambda: function)


_command = helper(Command)
_wait_until = helper(wait_until)
_steps_of = helper(steps_of)
_log_of = helper(log_of)
_same_run = helper(same_run)
_nothing_half_written = helper(nothing_half_written)
_at = helper(at)
_die_at = helper(die_at)
