"""CIFAR-10, from its binary version: no pickles."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np
import torch

from diffkit.data.base import DataInfo, Dataset, Images
from diffkit.data.memory import InMemory
from diffkit.data.remote import RemoteFile, fetch, missing
from diffkit.errors import DataError
from diffkit.spec import FilePath

FOLDER = "cifar-10-batches-bin"
ARCHIVE = RemoteFile(
    "cifar-10-binary.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
IMAGES_PER_FILE = 10_000
RECORD = 1 + 3 * 32 * 32
"""Bytes of an image in a file: its label, then its red, green and blue plane, row by row."""

LARGEST_UNPACKED = 2**28
"""Bytes; the archive has 184 million."""


class Cifar10(Dataset):
    """60,000 photographs, 32×32, RGB, 10 classes.

    Krizhevsky, "Learning multiple layers of features from tiny images" (2009); the binary version of
    https://www.cs.toronto.edu/~kriz/cifar.html.
    """

    kind: Literal["cifar10"] = "cifar10"
    root: FilePath | None = None
    """The archive ``cifar-10-binary.tar.gz``, or a folder that holds it or what was extracted from it,
    ``cifar-10-batches-bin``. Downloaded by default."""
    split: Literal["train", "test"] = "train"
    """The 50,000 images for training or the 10,000 for testing."""

    def info(self) -> DataInfo:
        """Return the sizes, which are constants."""
        classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
        return DataInfo(channels=3, height=32, width=32, classes=classes)

    def open(self) -> Images:
        """Load all images of the split into memory, after downloading the archive if no root is given.

        Raises:
            DataError: If the files are missing and cannot be had, or are damaged.
        """
        names = [f"data_batch_{i}.bin" for i in range(1, 6)] if self.split == "train" else ["test_batch.bin"]
        source = self._source(names)
        try:
            contents = _from_archive(source, names) if source.is_file() else _from_folder(source, names)
        except (tarfile.TarError, EOFError, zlib.error, ValueError, OverflowError) as error:
            raise DataError(f"{source}: damaged archive ({error}): fetch it anew") from None
        except OSError as error:  # gzip's own error is one too, without an errno
            raise DataError(f"{source}: cannot be read: {error.strerror or error}") from None
        records = np.concatenate([_records(contents[name], source, name) for name in names])
        return InMemory(
            torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32)), torch.from_numpy(records[:, 0].astype(np.int64))
        )

    def _source(self, names: list[str]) -> Path:
        """Return the archive, or the folder with the extracted files."""
        if self.root is None:
            return fetch(self.kind, [ARCHIVE]) / ARCHIVE.name
        if self.root.is_file():
            return self.root
        for folder in (self.root / FOLDER, self.root):
            if all((folder / name).is_file() for name in names):
                return folder
        if (self.root / ARCHIVE.name).is_file():
            return self.root / ARCHIVE.name
        raise missing(self.kind, [ARCHIVE], self.root)


def _from_folder(folder: Path, names: list[str]) -> dict[str, bytes]:
    return {name: _limited(folder / name) for name in names}


def _limited(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(IMAGES_PER_FILE * RECORD + 1)


def _from_archive(archive: Path, names: list[str]) -> dict[str, bytes]:
    """Read members by their exact names. Nothing is written to the disk, whatever the archive says."""
    wanted = {f"{FOLDER}/{name}": name for name in names}
    contents: dict[str, bytes] = {}
    with gzip.open(archive) as unpacked, tarfile.open(mode="r|", fileobj=cast(IO[bytes], _Limited(unpacked))) as tar:
        for member in tar:
            name = wanted.get(member.name.removeprefix("./"))
            stream = tar.extractfile(member) if name and member.isreg() else None
            if name and stream:
                contents[name] = stream.read(IMAGES_PER_FILE * RECORD + 1)
            if len(contents) == len(names):
                break
    _check_complete(contents, archive, names)
    return contents


class _Limited:
    """What is unpacked, as far as an archive of CIFAR-10 can be long: others may be without end."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream, self._left = stream, LARGEST_UNPACKED

    def read(self, size: int) -> bytes:
        content = self._stream.read(min(size, self._left + 1))
        self._left -= len(content)
        if self._left < 0:
            raise tarfile.ReadError(f"unpacked, it has more than {LARGEST_UNPACKED:,} bytes")
        return content


def _check_complete(contents: Mapping[str, bytes], archive: Path, names: list[str]) -> None:
    absent = [name for name in names if name not in contents]
    if absent:
        raise DataError(
            f"{archive}: no {FOLDER}/{', '.join(absent)} in it: this is not the binary version of CIFAR-10, "
            f"which is at {ARCHIVE.urls[0]}"
        )


def _records(content: bytes, source: Path, name: str) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    expected = IMAGES_PER_FILE * RECORD
    if len(content) != expected:
        how = "cut off" if len(content) < expected else "too long"
        raise DataError(f"{source}: {name} is {how}: it has {IMAGES_PER_FILE} records of {RECORD} bytes")
    records = np.frombuffer(content, dtype=np.uint8).reshape(IMAGES_PER_FILE, RECORD)
    if (largest := records[:, 0].max()) > 9:
        raise DataError(f"{source}: {name} has the label {largest}, of 10 classes from 0")
    return records
