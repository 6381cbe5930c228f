"""The processes that share a piece of work: one alone, or all that torchrun started."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from diffkit.data.progress import Advance, progress_bar
from diffkit.errors import DiffkitError, exit_code_of

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""So long, at most, processes wait for each other: one may train a classifier, or have the slower device."""

GRACE = timedelta(seconds=5)
"""So long a process may take to end once another one has failed."""


class StoppedByAnother(DiffkitError):
    """Another process ends this work, and says why."""


class LostContact(DiffkitError):
    """Another process is gone."""


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

        They talk through the CPU's memory (gloo), but of tensors on CUDA devices through NCCL. If one fails, all end
        within seconds: the first to fail raises its error, and the others exit without a word, with its exit code.

        Raises:
            SystemExit: If another process failed before.
            LostContact: If another process was killed.
        """
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            yield cls()
            return
        nccl = torch.cuda.is_available() and dist.is_nccl_available()
        if nccl and (number := int(os.environ["LOCAL_RANK"])) < torch.cuda.device_count():
            torch.cuda.set_device(number)
        store, rank, size = _meet()
        backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        failure = _Failure(store)
        with failure.watched():
            try:
                yield cls(rank, size)
            except BaseException as error:  # the group is left as it is: to take it down could wait for others
                if (code := failure.code_of_another(error)) is not None:
                    raise SystemExit(code) from None
                if _lost_contact(error):
                    reason = str(error).partition("\n")[0]
                    message = "lost contact with another process, which was killed or whose machine is gone"
                    raise LostContact(f"{message}: {reason}") from error
                raise
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

    def rows(self, count: int) -> range:
        """Return this process's rows of `count`: neighbours, and as many as the others have, or one more or less."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    @contextlib.contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Let the first process through the block before the others, for what it leaves in a cache for them."""
        if not self.is_first:
            self.wait_for_all()
        yield
        if self.is_first:
            self.wait_for_all()

    def wait_for_all(self) -> None:
        """Wait until all processes are here."""
        self.largest(0)

    def largest(self, number: int) -> int:
        """Return the largest of the numbers that the processes give, on all of them."""
        if self.size == 1:
            return number
        every = torch.tensor(int(number))
        dist.all_reduce(every, dist.ReduceOp.MAX)
        return int(every)

    def all_rows(self, mine: Tensor, count: int) -> Tensor:
        """Return the rows of all processes, ``[count, ...]``, on all of them, where `mine` are those of `rows`."""
        if self.size == 1:
            return mine
        rows = self.rows(count)
        every = mine.new_zeros(count, *mine.shape[1:])
        every[rows.start : rows.stop] = mine
        dist.all_reduce(every)  # a sum with zeros: exact, and parts may differ in size
        return every

    def spread(self, tensor: Tensor, rank: int) -> None:
        """Overwrite a tensor of all processes with that of one."""
        if self.size > 1:
            dist.broadcast(tensor, rank)

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
    def progress_bar(self, name: str, total: int) -> Iterator[Advance]:
        """Show the progress of this process's part, on the first one only."""
        if self.is_first:
            with progress_bar(name, total=total) as advance:
                yield advance
        else:
            yield lambda count, note="": None


class _Failure:
    """What the processes know of the first of them that failed: its exit code, in the store that they met at.

    Args:
        store: The store. torchrun holds it, so that it outlives a process.
    """

    CLAIM, CODE = "diffkit/failed", "diffkit/exit_code"

    def __init__(self, store: Store) -> None:
        self._store = store

    def code_of_another(self, error: BaseException) -> int | None:
        """Return the exit code of the process that failed first; None if it is this one, whose error is to be shown."""
        if isinstance(error, StoppedByAnother):
            return self._code(PATIENCE)  # it may still be writing a checkpoint
        if _lost_contact(error) and (code := self._code(timedelta(seconds=1))) is not None:
            return code
        try:
            if self._store.add(self.CLAIM, 1) > 1:
                return self._code(GRACE)
            self._store.set(self.CODE, str(exit_code_of(error)))
        except RuntimeError:  # the store is gone with whoever held it
            return None
        return None

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """End this process, even in the midst of a call that never returns, when another one failed."""
        ended = threading.Event()
        watch = threading.Thread(target=self._watch, args=(_meet()[0], ended), daemon=True)
        watch.start()
        try:
            yield
        finally:
            ended.set()
            watch.join()

    def _code(self, patience: timedelta) -> int | None:
        try:
            self._store.wait([self.CODE], patience)
            return int(self._store.get(self.CODE))
        except RuntimeError:  # nobody said why it went: it was killed
            return None

    def _watch(self, store: Store, ended: threading.Event) -> None:
        with contextlib.suppress(RuntimeError):
            while not ended.wait(timeout=1):
                if store.check([self.CODE]):
                    if not ended.wait(GRACE.total_seconds()):
                        os._exit(int(store.get(self.CODE)))
                    return


def _meet() -> tuple[Store, int, int]:
    """Return a new connection to the store that all processes see, this one's number, and how many there are."""
    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    return store, rank, size


def _lost_contact(error: BaseException) -> bool:
    """Return whether an error only tells that another process is gone."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def _tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
