"""The IDX file format of MNIST: a magic number, sizes, and then the bytes.

Layout: two zero bytes, the type of the numbers (8 is an unsigned byte), the number of axes, then each axis' size
as a big-endian 32-bit integer, then the numbers, the last axis fastest. See http://yann.lecun.com/exdb/mnist.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from diffkit.errors import DataError

GZIP = b"\x1f\x8b"
GZIP_RATIO = 1032
"""No DEFLATE stream grows by more than this factor (zlib's technical details)."""

LARGEST = 2**30
"""No data set of this format has a file of more bytes."""


def read_idx(file: Path, axes: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, compressed by gzip or not, which its first bytes tell.

    Args:
        file: The file.
        axes: How many axes it should have.

    Raises:
        DataError: If it cannot be read, is not such a file, is cut off, or is too long.
    """
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise DataError(f"{file}: not a regular file")
        with file.open("rb") as plain:
            is_gzip = plain.read(2) == GZIP
            plain.seek(0)
            longest = file.stat().st_size * (GZIP_RATIO if is_gzip else 1)
            return _read(cast(IO[bytes], gzip.GzipFile(fileobj=plain)) if is_gzip else plain, file, axes, longest)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{file}: damaged gzip file ({error}): fetch it anew") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None


def _read(stream: IO[bytes], file: Path, axes: int, longest: int) -> NDArray[np.uint8]:
    magic = stream.read(4)
    expected = bytes([0, 0, 8, axes])
    if magic != expected:
        raise DataError(
            f"{file}: not an IDX file of unsigned bytes with {axes} axes: "
            f"it begins with {magic.hex(' ') or 'nothing'}, not with {expected.hex(' ')}"
        )
    header = stream.read(4 * axes)
    if len(header) < 4 * axes:
        raise DataError(f"{file}: cut off in its header: fetch it anew")
    shape = struct.unpack(f">{axes}I", header)
    size = math.prod(shape)
    if size == 0:
        raise DataError(f"{file}: empty: its header says {'×'.join(map(str, shape))}")
    if size > LARGEST:
        raise DataError(f"{file}: its header says {'×'.join(map(str, shape))} bytes, and {LARGEST} are allowed")
    # The header is believed only as far as the file can be long: a wrong one must not take all memory.
    content = stream.read(min(size, longest) + 1)
    if len(content) != size:
        how = "cut off" if len(content) < size else "too long"
        raise DataError(f"{file}: {how}: its header says {'×'.join(map(str, shape))} bytes: fetch it anew")
    return np.frombuffer(bytearray(content), dtype=np.uint8).reshape(shape)
