"""NumPy's files, read so that what they claim costs no more than they hold. Nothing is ever unpickled.

A .npz file is a zip archive, whose parts may grow a thousandfold, and a header may claim any shape.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffkit.errors import DataError, did_you_mean

MOST_GROWTH = 100
"""An array in an archive is at most so many times longer than the archive: images of more than one color are."""

ALWAYS_ALLOWED = 2**30
"""Bytes that an array may take however well it was compressed."""

LARGEST_HEADER = 2**16
"""Bytes before the numbers; NumPy refuses headers of more than 10,000 itself."""


class ArrayHeader(NamedTuple):
    """What a file says of an array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def names_in(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the arrays in an archive."""
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_header(file: Path, key: str, setting: str = "") -> ArrayHeader:
    """Return what an archive says of one of its arrays.

    Args:
        file: The archive.
        key: The array's name.
        setting: What names it, for messages.

    Raises:
        DataError: If there is none of this name, or it would take too much memory.
    """
    with zipfile.ZipFile(file) as archive:
        return _header(archive, file, key, setting)


def read_member(file: Path, key: str, setting: str = "") -> NDArray[Any]:
    """Read one array of an archive.

    Raises:
        DataError: If there is none of this name, or it would take too much memory.
    """
    with zipfile.ZipFile(file) as archive:
        _header(archive, file, key, setting)
        with archive.open(f"{key}.npy") as stream:
            array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def read_rows(file: Path, key: str, at_once: int) -> Iterator[NDArray[Any]]:
    """Read one array of an archive part by part, without holding all of it.

    Args:
        file: The archive.
        key: The array's name.
        at_once: The number of rows of a part; the last one may be shorter.

    Raises:
        DataError: If there is none of this name, or it would take too much memory.
        ValueError: If its numbers don't lie row by row.
    """
    with zipfile.ZipFile(file) as archive:
        _header(archive, file, key, "")
        with archive.open(f"{key}.npy") as stream:
            shape, fortran, dtype = _read_header(stream)
            if fortran or not shape or dtype.hasobject:
                raise ValueError(f"'{key}' has no rows of numbers one after the other: save it in C order")
            for start in range(0, shape[0], at_once):
                part = (min(at_once, shape[0] - start), *shape[1:])
                content = bytearray(stream.read(_bytes_of(part, dtype)))
                yield np.frombuffer(content, dtype).reshape(part)


def has_member(file: Path, key: str) -> bool:
    """Return whether an archive has an array of this name."""
    with zipfile.ZipFile(file) as archive:
        return key in names_in(archive)


def _header(archive: zipfile.ZipFile, file: Path, key: str, setting: str) -> ArrayHeader:
    names = names_in(archive)
    if key not in names:
        how = f"Set {setting}" if setting else ""
        raise DataError(f"{file}: no array '{key}' in it.{did_you_mean(key, names)} There are: {_shown(names)}. {how}")
    size = archive.getinfo(f"{key}.npy").file_size  # no more than this is ever read of it
    allowed = max(ALWAYS_ALLOWED, MOST_GROWTH * file.stat().st_size)
    if size > allowed:
        raise DataError(
            f"{file}: '{key}' has {size:,} bytes, which is more than {MOST_GROWTH} times the file's own length: "
            "if you trust it, save it without compression, as .npy or by np.savez"
        )
    with archive.open(f"{key}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        start = stream.read(2 if version == (1, 0) else 4)
        if int.from_bytes(start, "little") > LARGEST_HEADER:
            raise ValueError("its header is too long")
    with archive.open(f"{key}.npy") as stream:
        shape, _, dtype = _read_header(stream)
        claimed = _bytes_of(shape, dtype)
    if claimed > size and not dtype.hasobject:
        raise ValueError(f"cut off: its header claims {claimed:,} bytes, and there are {size:,}")
    return ArrayHeader(shape, dtype)


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return the shape, whether it is in Fortran order, and the type of the array that follows in a stream."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"its format is version {version[0]}.{version[1]}, which NumPy doesn't know")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    header: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(stream)
    return header


def read_npy(file: Path) -> NDArray[Any]:
    """Map a .npy file: what is behind its header is read from the disk when it is needed.

    Raises:
        ValueError: If it is no such file, or shorter than its header claims.
    """
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise ValueError("not a regular file")  # a pipe may have no end
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("an archive of arrays: name it .npz")
    return array


def _bytes_of(shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    count = dtype.itemsize
    for side in shape:
        if side < 0:
            raise ValueError(f"a shape of {list(shape)}")
        count *= side
    return count


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
