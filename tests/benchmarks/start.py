"""How long `diffkit --help` and `diffkit components` take, beside torch's own import.

    python tests/benchmarks/start.py --rounds 7

Each round runs all three, one after the other. The aims are 0.4 s for the help and 3 s for the components, by the
wall's clock on an idle machine; the exit code is 1 if a median misses its aim. Most of the second is torch's import.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "diffkit --help": ([sys.executable, "-m", "diffkit", "--help"], 0.4),
    "diffkit components": ([sys.executable, "-m", "diffkit", "components"], 3.0),
    "import torch": ([sys.executable, "-c", "import torch"], None),
}


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
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
