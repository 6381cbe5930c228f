"""The processes that share the work of an evaluation."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from diffkit.data.progress import progress_bar

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""So long, at most, processes wait for each other: one may train a classifier, or have the slower device."""


@dataclass(frozen=True)
class Workers:
    """One process alone, or all that torchrun started; what each one does follows from its number.

    Attributes:
        rank: The number of this process, from 0. The first one keeps and reports what is found.
        size: The number of processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    @contextlib.contextmanager
    def joined(cls) -> Iterator[Workers]:
        """Join the other processes, if torchrun started this one; else give one process alone.

        They talk through the CPU's memory (gloo), whatever computes: what they exchange is there.
        """
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            yield cls()
            return
        dist.init_process_group("gloo", timeout=PATIENCE)
        try:
            yield cls(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this is the process that keeps and reports what is found."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """Return the device for this process where the user named one, such as ``auto`` or ``cuda``, for all."""
        many = self.size > 1 and torch.accelerator.is_available()
        accelerator = torch.accelerator.current_accelerator() if many else None
        if accelerator is None or name not in ("auto", accelerator.type):
            return name
        return f"{accelerator.type}:{os.environ['LOCAL_RANK']}"

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's part of some items, which all processes know."""
        return items[self.rank :: self.size]

    @contextlib.contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Let the first process through the block before the others, for what it leaves in a cache for them."""
        if not self.is_first:
            dist.barrier()
        yield
        if self.is_first and self.size > 1:
            dist.barrier()

    def from_first(self, content: bytes) -> bytes:
        """Return what the first process gave, on all of them."""
        if self.size == 1:
            return content
        length = torch.tensor(len(content))
        dist.broadcast(length, 0)
        data = _tensor(content) if self.is_first else torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(data, 0)
        return data.numpy().tobytes()

    def gather(self, content: bytes) -> list[bytes]:
        """Return what each process gave, on the first one; an empty list on the others."""
        if self.size == 1:
            return [content]
        if not self.is_first:
            dist.send(torch.tensor(len(content)), 0)
            dist.send(_tensor(content), 0)
            return []
        found = [content]
        for rank in range(1, self.size):
            length = torch.tensor(0)
            dist.recv(length, rank)
            data = torch.empty(int(length), dtype=torch.uint8)
            dist.recv(data, rank)
            found.append(data.numpy().tobytes())
        return found

    @contextlib.contextmanager
    def progress_bar(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show the progress of this process's part, on the first one only."""
        if self.is_first:
            with progress_bar(name, total=total) as advance:
                yield advance
        else:
            yield lambda _: None


def _tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
