"""Kills one training hundreds of times, and compares what it leaves with a training that nobody disturbed.

    python tests/soak/kill_and_resume.py --kills 300

The training has all that a run can keep: two averages with snapshots, a history of losses, dropout, rotation of
checkpoints, samples. SIGKILL comes by chance while a run opens its folder, while a checkpoint is written or deleted,
or at any time between. After each kill the newest whole checkpoint must be no older than the one of before; then
`--resume` goes on. At the end all files must hold the same, bit for bit, but for the speed in the log. The exit code is
1 if one doesn't.

The undisturbed training is a process of its own, as users start it. Those that are killed are copies of this one
(fork), where everything is imported already, so that most kills hit the training and not its start.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from diffkit.cli.main import run as command
from diffkit.plugins import builtin
from diffkit.storage.checkpoint import newest_whole, read_checkpoint
from diffkit.storage.overview import overview

RECIPE = """
name = "soak"

[data]
kind = "digits"

[process]
kind = "ddpm"
steps = 20

[objective]
time_sampling = {{ kind = "importance", losses = 2 }}
self_conditioning = true

[model]
kind = "unet"
channels = 8
multipliers = [1, 2]
blocks_per_level = 1
attention_at = [4]
norm = {{ kind = "group", groups = 4 }}
resnet = {{ kind = "ddpm", dropout = 0.1 }}

[train]
steps = {steps}
batch_size = 4
device_batch_size = 2
optimizer = {{ kind = "adam", lr = 1e-3 }}
ema = {{ kind = "power", snapshots = 20 }}
grad_clip = 1.0
log_every = 3
checkpoint_every = {every}
keep_last = 2
keep_every = {kept}

[sample]
steps = 2

[[callbacks]]
kind = "sample_grid"
every = 50
count = 2
"""

STEPS_PER_KILL = 6
"""More than one life takes, so that the training doesn't end before the last kill."""

SAVED = ("checkpoints", "ema")
"""The folders of checkpoints and snapshots in a run folder."""

EVERY = 4
"""Steps between two checkpoints."""

OPENING, BETWEEN, WRITING = 0.5, 0.1, 0.01
"""Seconds that a run takes, or a little more, until its first step, between two checkpoints, and to write one."""


class Training:
    """A training in a process of its own, which can be killed.

    Args:
        recipe: The recipe's file.
        folder: The run folder.
        options: Further options of ``diffkit train``.
    """

    def __init__(self, recipe: Path, folder: Path, *options: str) -> None:
        self._says = folder.with_name("says")
        self._pid = os.fork()
        if self._pid == 0:
            code = 70
            try:
                says = os.open(self._says, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(says, 1)
                os.dup2(says, 2)
                command(["train", str(recipe), "--run", str(folder), "--device", "cpu", *options])
            except SystemExit as end:
                sys.stdout.flush()
                code = int(end.code or 0)
            finally:
                os._exit(code)

    def goes_on(self, seconds: float = math.inf, until: Callable[[], bool] = lambda: False) -> bool:
        """Wait for so long, or until something is so. Returns whether the process still runs.

        Raises:
            SystemExit: If it ended with an error.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid and (code := os.waitstatus_to_exitcode(status)):
                raise SystemExit(f"a training that nobody killed ended with {code}:\n{self._says.read_text()}")
            if pid:
                return False
            time.sleep(0.001)
        return True

    def kill(self) -> None:
        """Kill it."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def comes_to_a_moment(training: Training, folder: Path, chance: random.Random) -> bool:
    """Wait for a moment to kill a training at. Returns whether it still runs."""
    before, left = newest_step(folder), unfinished(folder, *SAVED)
    match chance.choice(["opening", "between", "writing"]):
        case "opening":
            return training.goes_on(chance.uniform(0, OPENING))
        case "between":
            return training.goes_on(until=lambda: newest_step(folder) > before) and training.goes_on(
                chance.uniform(0, BETWEEN)
            )
        case _:
            return training.goes_on(until=lambda: bool(unfinished(folder, *SAVED) - left)) and training.goes_on(
                chance.uniform(0, WRITING)
            )


def newest_step(folder: Path) -> int:
    return max((int(path.name.removeprefix("step-")) for path in folder.glob("checkpoints/step-*")), default=0)


def unfinished(folder: Path, *places: str) -> set[Path]:
    """Return what is half written, or half deleted, in places of a run folder; also what a run that was killed left."""
    return {path for place in places for path in folder.glob(f"{place}/.tmp-*")}


def soak(recipe: Path, folder: Path, kills: int, chance: random.Random) -> Counter[str]:
    """Kill a training so often and let it come to its end. Returns how often what was found after a kill.

    Raises:
        SystemExit: If something that was saved is lost.
    """
    found: Counter[str] = Counter()
    saved, left = 0, set[Path]()
    training = Training(recipe, folder)
    while found["kills"] < kills and comes_to_a_moment(training, folder, chance):
        training.kill()
        newest = newest_whole(folder / "checkpoints")
        step = 0 if newest is None else read_checkpoint(newest).step
        if step < saved:
            raise SystemExit(
                f"step {saved} was saved, and after the next kill the newest whole checkpoint is of {step}"
            )
        saved = step
        begun = (folder / "recipe.toml").exists()
        if begun and (state := overview(folder).state) not in ("stopped", "done"):
            raise SystemExit(f"nobody trains, and diffkit runs says: {state}")
        found["kills"] += 1
        places = {
            path.relative_to(folder).parent.name or "the run folder" for path in unfinished(folder, *SAVED, ".") - left
        }
        found.update(f"left something unfinished in {place}" for place in places)
        left = unfinished(folder, *SAVED, ".")
        training = Training(recipe, folder, *(["--resume"] if begun else []))
    training.goes_on()
    return found


def differences(one: Path, other: Path) -> list[str]:
    """Return the files in which two runs differ."""
    ours, theirs = ({str(file.relative_to(run)): content(file) for file in files(run)} for run in (one, other))
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def files(run: Path) -> list[Path]:
    return [file for file in run.rglob("*") if file.is_file() and file.name != ".lock"]


def content(file: Path) -> object:
    """Return what is in a file, but for the speed, which is of the clock, and the order in which safetensors writes the
    texts of a header, which is none; so hashes differ too.
    """
    raw = file.read_bytes()
    if file.suffix == ".safetensors":
        length = int.from_bytes(raw[:8], "little")
        return json.loads(raw[8 : 8 + length]), raw[8 + length :]
    if file.name == "state.json":
        return {**json.loads(raw), "sha256": None}
    if file.name == "metrics.jsonl":
        return [line.partition(b', "images_per_second"')[0] for line in raw.splitlines()]
    return raw


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for module in ("diffkit.train.loop", "torch._dynamo"):  # torch's optimizers import the latter
        importlib.import_module(module)
    builtin.register_components()  # imports all kinds; each training registers them for itself
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        recipe, whole, killed = here / "soak.toml", here / "whole", here / "killed"
        steps = STEPS_PER_KILL * given.kills
        recipe.write_text(RECIPE.format(steps=steps, every=EVERY, kept=max(EVERY, steps // 20 // EVERY * EVERY)))
        undisturbed = [sys.executable, "-m", "diffkit", "train", str(recipe), "--run", str(whole), "--device", "cpu"]
        subprocess.run(undisturbed, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        found = soak(recipe, killed, given.kills, random.Random(given.seed))
        different = differences(whole, killed)
        events = len((killed / "metrics.jsonl").read_text().splitlines())
        print(
            f"{found.pop('kills')} kills of a training of {steps} steps, in {time.monotonic() - began:.0f} s; of these"
        )
        print("".join(f"  {count} {what}\n" for what, count in found.most_common()), end="")
        print(
            f"{len(files(killed))} files, one of them a log of {events} lines: {len(different)} differ from those of a"
        )
        print("training that was never killed")
        print("".join(f"  {name}\n" for name in different), end="")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
