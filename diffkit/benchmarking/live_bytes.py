"""The bytes that tensors hold at each moment, told by what they are for; tensors without memory count too."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OTHER = "workspace"
"""What holds bytes and was not said to be for anything."""

SAVED = "saved for the backward pass"


@dataclass
class _Held:
    """A storage that is alive: its bytes, what they are for, and what tells when it dies."""

    size: int
    purpose: str
    alive: weakref.ref[torch.UntypedStorage]


Aside = Callable[..., tuple[int, int]]
"""Maps an operation's arguments to the bytes that it keeps for later calls, and those it takes while it computes."""


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that operations make while this is active, and of those that are named.

    Args:
        asides: What operations take aside from what they return, which can't be seen.

    Attributes:
        now: The bytes that are held now, by purpose.
        most: The same at the moment when they were most.
    """

    def __init__(self, asides: Mapping[Any, Aside]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._asides, self._kept = asides, 0
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self._total = self._largest = 0
        self._held: dict[int, _Held] = {}

    def name(self, purpose: str, tensors: Iterable[Tensor]) -> None:
        """Say what tensors are for; those that were not counted before are from now on."""
        for tensor in tensors:
            held = self._hold(tensor)
            self.now[held.purpose] -= held.size
            self.now[purpose] += held.size
            held.purpose = purpose

    def forget_most(self) -> None:
        """Begin anew to look for the moment when the bytes are most."""
        self._largest = 0
        self._note()

    def _note(self, aside: int = 0) -> None:
        """Remember this moment, when some more bytes are held, if it is the one with most."""
        if self._total + aside > self._largest:
            self._largest, self.most = self._total + aside, self.now.copy()
            self.most[OTHER] += aside

    def saving(self) -> saved_tensors_hooks:
        """Return a context in which what operations save for their backward pass is named so."""

        def save(tensor: Tensor) -> Tensor:
            if self._hold(tensor).purpose == OTHER:
                self.name(SAVED, [tensor])
            return tensor

        return saved_tensors_hooks(save, lambda tensor: tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count what an operation returns, or what those return that it consists of."""
        if func.namespace == "aten" and not func.has_kernel_for_dispatch_key(DispatchKey.CPU):
            with self:  # in inference mode such operations come whole
                found = func.decompose(*args, **(kwargs or {}))
            if found is not NotImplemented:
                return found
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._hold(tensor)
        if func in self._asides:
            kept, aside = self._asides[func](*args)
            if (more := kept - self._kept) > 0:
                self._kept = kept
                self.now[OTHER] += more
                self._total += more
            self._note(aside)
        return found

    def _hold(self, tensor: Tensor) -> _Held:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._held:
            return self._held[key]

        def died(_: object) -> None:
            gone = self._held.pop(key)
            self.now[gone.purpose] -= gone.size
            self._total -= gone.size

        held = self._held[key] = _Held(storage.nbytes(), OTHER, weakref.ref(storage, died))
        self.now[OTHER] += held.size
        self._total += held.size
        self._note()
        return held
