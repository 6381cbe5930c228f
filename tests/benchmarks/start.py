"""How long commands take to get going: the help, the components, a training of a single step; and torch's own import.

    python tests/benchmarks/start.py --rounds 7

Each round runs all of them, one after the other. The aims are 0.3 s for the help, 3 s for the components and 4 s for
the training, by the wall's clock on an idle machine; the exit code is 1 if a median misses its aim. Most of all but the
first is torch's import. The training ends with a checkpoint, which is counted too.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

COMMANDS = {
    "diffkit --help": ([sys.executable, "-m", "diffkit", "--help"], 0.3),
    "diffkit components": ([sys.executable, "-m", "diffkit", "components"], 3.0),
    "diffkit train, one step": ([sys.executable, "-m", "diffkit", "train", "quickstart", "train.steps=1"], 4.0),
    "import torch": ([sys.executable, "-c", "import torch"], None),
}


def seconds(command: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
        return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, (command, _) in COMMANDS.items():
            taken[name].append(seconds(command))
    missed = False
    for name, (_, aim) in COMMANDS.items():
        middle = statistics.median(taken[name])
        missed |= aim is not None and middle >= aim
        wanted = "" if aim is None else f", aim below {aim} s"
        print(f"{name}: median {middle:.2f} s ({min(taken[name]):.2f} to {max(taken[name]):.2f}){wanted}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
