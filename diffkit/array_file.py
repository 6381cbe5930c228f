"""Arrays of images that are larger than memory, written part by part."""

from __future__ import annotations

import io
import math
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffkit.errors import naming


class ArrayFile:
    """A .npy file of bytes whose rows are written in any order, by several processes too.

    Args:
        path: The file.
        shape: Of the whole array; the first axis counts the rows.
        new: Make the file, with zeros for rows; one process does, before any row is written.

    Raises:
        OSError: If it cannot be written, with its name.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], *, new: bool) -> None:
        self.path = path
        self._row = math.prod(shape[1:])
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        self._start = header.tell()
        if new:
            with naming(path), path.open("wb") as file:
                file.write(header.getvalue())
                file.truncate(self._start + shape[0] * self._row)

    def put(self, first: int, rows: NDArray[np.uint8]) -> None:
        """Write some rows, the first of which has this number.

        Raises:
            OSError: If they cannot be written, with the file's name.
        """
        with naming(self.path), self.path.open("r+b") as file:
            file.seek(self._start + first * self._row)
            file.write(rows.tobytes())

    def pack(self, name: str, file: Path, others: Mapping[str, NDArray[np.int64]]) -> None:
        """Compress this array and small ones into an .npz file, and remove the array's own file.

        Raises:
            OSError: If it cannot be written, with its name.
        """
        with naming(file), zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            # not ZipFile.write, which notes the time: equal images make equal files
            with self.path.open("rb") as images, archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                shutil.copyfileobj(images, member)
            for other, array in others.items():
                with archive.open(f"{other}.npy", "w") as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        self.path.unlink()
