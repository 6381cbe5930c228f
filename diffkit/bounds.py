"""Limits on what is read from files that somebody else may have made: see docs/security.md.

All of these functions raise a ValueError whose text says what is wrong; who reads a file adds its name.
"""

from __future__ import annotations

import json
import re
import stat
import tomllib
import unicodedata
from pathlib import Path
from typing import Any, BinaryIO

LARGEST_TEXT = 2**24
"""No text that diffkit reads whole is longer, in bytes."""

DEEPEST = 64
"""Tables and arrays are nested no deeper."""

MOST_DOTS = 100
"""No key of a TOML file has more dots: the time that Python's parser takes grows with their square."""

LARGEST_IMAGE = 2**28
"""Images have no more numbers."""


def open_regular(file: Path) -> BinaryIO:
    """Open a regular file for reading: no device and no pipe, which may have no end.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is something else.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        raise ValueError("not a regular file")
    return file.open("rb")


def read_bytes(file: Path, largest: int = LARGEST_TEXT) -> bytes:
    """Return what is in a regular file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is something else, or longer than so many bytes.
    """
    with open_regular(file) as stream:
        content = stream.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"longer than {largest} bytes")
    return content


def parse_json(text: str | bytes) -> Any:
    """Parse JSON that is no longer than `LARGEST_TEXT` and nested no deeper than `DEEPEST`.

    Raises:
        ValueError: If it isn't.
    """
    if len(text) > LARGEST_TEXT:
        raise ValueError(f"longer than {LARGEST_TEXT} bytes")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST}") from None
    check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Check that tables and arrays are nested no deeper than `DEEPEST`.

    Raises:
        ValueError: If they are: what walks through them would run out of stack.
    """
    level = [value]
    for _ in range(DEEPEST):
        level = [item for one in level for item in _items(one)]
        if not level:
            return
    raise ValueError(f"nested deeper than {DEEPEST}")


def _items(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML that is no longer than `LARGEST_TEXT`, nested no deeper than `DEEPEST`, and without endless keys.

    Raises:
        tomllib.TOMLDecodeError: If it isn't TOML: with the line of the mistake.
        ValueError: If it is too much: also where a text in quotes has more than `MOST_DOTS` dots without a comma.
    """
    if len(text) > LARGEST_TEXT:
        raise ValueError(f"longer than {LARGEST_TEXT} bytes")
    if any(part.count(".") > MOST_DOTS for part in re.split(r"[=,\[\]{}#\n]", text)):
        raise ValueError(f"a key has more than {MOST_DOTS} dots")
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except (ValueError, RecursionError):  # an integer of thousands of digits, or thousands of nested arrays
        raise ValueError("a number is too long or arrays are nested too deep") from None
    check_depth(tables)
    return tables


def printable(text: str) -> str:
    """Return a text without the control characters by which it could write over a terminal, or give it orders."""
    return "".join(
        f"\\x{ord(char):02x}" if unicodedata.category(char) == "Cc" and char not in "\n\t" else char for char in text
    )
