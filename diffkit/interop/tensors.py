"""Tensors of other libraries: their names before anything is read, and their order."""

from __future__ import annotations

import functools
import io
import pickle
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import safetensors.torch
from torch import Tensor

from diffkit.errors import CheckpointError, did_you_mean
from diffkit.interop.base import Source

LARGEST_PICKLE = 2**23
"""No pickle of names and sizes is longer, in bytes; the numbers lie beside it."""

LEGACY_PICKLES = 5
"""How many pickles, one after the other, a file of torch before 1.6 starts with; names of tensors are among them."""


def words(path: Path) -> frozenset[str]:
    """Return the names of a file's tensors; of a pickled file, all of its texts. Nothing is unpickled.

    A file that cannot be read so has no words.
    """
    try:
        return _words(path, path.stat().st_mtime_ns)
    except OSError:
        return frozenset()


@functools.lru_cache(maxsize=4)
def _words(path: Path, written: int) -> frozenset[str]:
    """Read a file once, as long as it is the same, for all who want to see whether they know it."""
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                return frozenset(file.keys())
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith("/data.pkl") and archive.getinfo(name).file_size <= LARGEST_PICKLE:
                        with archive.open(name) as pickled:
                            return frozenset(_texts(pickled))
                return frozenset()
        with path.open("rb") as stream:
            if stream.read(1) != pickle.PROTO:
                return frozenset()
            beginning = io.BytesIO(pickle.PROTO + stream.read(LARGEST_PICKLE))
            return frozenset(text for _ in range(LEGACY_PICKLES) for text in _texts(beginning))
    except Exception:  # the parsers of archives and pickles raise anything at all on damaged files
        return frozenset()


def tensors_of(source: Source) -> dict[str, Tensor]:
    """Return the tensors of a file of safetensors, or of a pickled file of nothing but tensors.

    Raises:
        UserError: If it is pickled and that is not allowed, or holds anything else.
    """
    if source.path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(source.path)
        except (OSError, safetensors.SafetensorError, ValueError, TypeError, MemoryError) as error:
            raise CheckpointError(f"{source.path}: cannot be read: {error}") from None
    state = source.unpickled()
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{source.path}: not a state dict: it holds more than tensors")
    return state


def _texts(file: IO[bytes]) -> Iterator[str]:
    """Yield the texts in a pickle, by its opcodes, and leave the file behind it."""
    for _, argument, _ in pickletools.genops(file):
        if isinstance(argument, str):
            yield argument


def from_heads(qkv: Tensor, heads: int) -> Tensor:
    """Order the rows of a projection to queries, keys and values from ``[heads, 3, d]`` to ``[3, heads, d]``."""
    return qkv.view(heads, 3, -1, *qkv.shape[1:]).transpose(0, 1).flatten(0, 2)


def from_heads_interleaved(qkv: Tensor, heads: int) -> Tensor:
    """Order the rows of a projection to queries, keys and values from ``[heads, d, 3]`` to ``[3, heads, d]``."""
    return qkv.view(heads, -1, 3, *qkv.shape[1:]).movedim(2, 0).flatten(0, 2)


class Remaining:
    """Tensors that are taken one by one, so that none is forgotten.

    Args:
        tensors: The tensors.
        source: What they were read from, for messages.
    """

    def __init__(self, tensors: Mapping[str, Tensor], source: Path) -> None:
        self._tensors, self._source = dict(tensors), source

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def take(self, name: str) -> Tensor:
        """Return a tensor, and leave it out from now on.

        Raises:
            CheckpointError: If there is none of this name.
        """
        if name not in self._tensors:
            hint = did_you_mean(name, self._tensors)
            raise CheckpointError(f"{self._source}: there is no tensor '{name}', which the settings ask for.{hint}")
        return self._tensors.pop(name)

    def layer(self, name: str, to: str) -> dict[str, Tensor]:
        """Take a layer's weight, and its bias if it has one, under another name."""
        taken = {f"{to}.weight": self.take(f"{name}.weight")}
        if f"{name}.bias" in self:
            taken[f"{to}.bias"] = self.take(f"{name}.bias")
        return taken

    def done(self) -> None:
        """Check that nothing is left.

        Raises:
            CheckpointError: If tensors are left; names some.
        """
        if self._tensors:
            some = ", ".join(list(self._tensors)[:SHOWN])
            raise CheckpointError(
                f"{self._source}: {len(self._tensors)} tensors have no place in the network that the settings "
                f"describe: {some}{', ...' if len(self._tensors) > SHOWN else ''}"
            )


SHOWN = 5
"""How many names a message shows."""
