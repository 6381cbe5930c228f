"""Files of a data set that somebody writes to while they are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from diffkit.errors import DataError

Stamp: TypeAlias = tuple[int, int]
"""A file's length in bytes, and when it was written last in nanoseconds."""


def stamp_of(about: os.stat_result) -> Stamp:
    """Return what differs, in all likelihood, once a file was written to."""
    return about.st_size, about.st_mtime_ns


class OpenFile:
    """A file that stays open, so that it is known for the same one when another gets its name.

    Args:
        file: The file.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stream = file.open("rb")
        self._stamp = stamp_of(os.fstat(self._stream.fileno()))

    def check(self) -> None:
        """Check that nobody wrote to it: to read what was cut off from a mapped file would end the process.

        Raises:
            DataError: If somebody did.
        """
        if stamp_of(os.fstat(self._stream.fileno())) != self._stamp:
            raise DataError(f"{self._file}: {CHANGED}")


CHANGED = "was changed while it was in use: put back what it was, or go on with what it is now"
"""What is wrong with such a file."""
