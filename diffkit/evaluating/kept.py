"""What is found of single images, kept as it comes, so that a killed evaluation goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffkit.distributed import Workers
from diffkit.storage.files import write_atomically

Rows = dict[str, Tensor]
"""What is found of some images, by name: tensors with a row for each."""

NUMBER = "number"
"""The images' numbers among the tensors of a file."""


class Kept:
    """What was found of single images so far, by their numbers.

    Args:
        folder: Where it is kept: a file for each part that was added, which appears whole or not at all, and whose
            name is the content's hash. What is there already, and whole, is taken over. None: in memory only.
        workers: The processes that share the work. All are to make one of these, and to ask it the same.
    """

    def __init__(self, folder: Path | None = None, workers: Workers | None = None) -> None:
        self._folder, self._workers = folder, workers or Workers()
        self._parts: list[Rows] = []
        self._new: list[Rows] = []
        self._numbers: set[int] = set()
        if folder is not None and self._workers.is_first:
            for file in sorted(folder.glob("*.safetensors")):
                content = file.read_bytes() if file.is_file() else b""
                if _name(content) == file.name:
                    with contextlib.suppress(safetensors.SafetensorError, ValueError, KeyError, IndexError):
                        self._take(safetensors.torch.load(content))  # or somebody else's: it is found again

    def add(self, numbers: range, rows: Rows) -> None:
        """Keep what was found of images."""
        part = {NUMBER: torch.arange(numbers.start, numbers.stop), **rows}
        if self._folder is not None:
            content = _packed(part)
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._folder / _name(content), content)
        self._new.append(part)
        self._take(part)

    def missing(self, count: int, batch_size: int) -> Sequence[range]:
        """Return which of the images 0 to `count` are left for this process.

        They are in batches that begin at multiples of the batch size, whatever was found before, since an image's
        numbers may differ in their last bits with its place in a batch.
        """
        known = np.array(sorted(self._numbers), dtype=np.int64).tobytes()
        done = np.zeros(count, dtype=bool)
        found = np.frombuffer(self._workers.from_first(known), dtype=np.int64)
        done[found[found < count]] = True
        batches = [range(at, min(count, at + batch_size)) for at in range(0, count, batch_size)]
        return self._workers.share([run for batch in batches for run in _runs(batch, done)])

    def gather(self, count: int) -> Rows:
        """Return what was found of the images 0 to `count`, by all processes, in the order of their numbers.

        Only the first process is answered: the others get nothing.
        """
        new = _packed(_joined(self._new)) if self._new else b""
        for content in self._workers.gather(new)[1:]:
            if content:
                self._take(safetensors.torch.load(content))
        if not self._workers.is_first:
            return {}
        whole = _joined(self._parts)
        order = whole[NUMBER].argsort()
        order = order[whole[NUMBER][order] < count]
        return {name: tensor[order] for name, tensor in whole.items() if name != NUMBER}

    def _take(self, part: Rows) -> None:
        fresh = [row for row, number in enumerate(part[NUMBER].tolist()) if number not in self._numbers]
        if fresh:
            self._parts.append({name: tensor[fresh] for name, tensor in part.items()})
            self._numbers.update(self._parts[-1][NUMBER].tolist())


def _runs(batch: range, done: NDArray[np.bool_]) -> list[range]:
    """Return the runs of numbers of a batch that are not done."""
    runs: list[range] = []
    for number in batch:
        if done[number]:
            continue
        if runs and runs[-1].stop == number:
            runs[-1] = range(runs[-1].start, number + 1)
        else:
            runs.append(range(number, number + 1))
    return runs


def _joined(parts: Sequence[Rows]) -> Rows:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _packed(rows: Rows) -> bytes:
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in rows.items()})


def _name(content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()[:32]}.safetensors"
