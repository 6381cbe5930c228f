"""Files of data sets that can be had from the network, and where they are kept."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from diffkit.errors import DataError

ENVIRONMENT = "DIFFKIT_DATA"
"""Environment variable that names the folder of downloaded data sets."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a data set and where it can be had.

    Attributes:
        name: Its name on disk.
        urls: Places to try, in this order.
        sha256: SHA-256 of its content, as hexadecimal digits.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str


def cache_folder(dataset: str) -> Path:
    """Return the folder of a downloaded data set: in ``$DIFFKIT_DATA``, or in the user's cache."""
    named = os.environ.get(ENVIRONMENT)
    base = Path(named).expanduser().absolute() if named else platformdirs.user_cache_path("diffkit") / "data"
    return base / dataset


def fetch(dataset: str, files: Sequence[RemoteFile]) -> Path:
    """Return the folder that holds the files, after downloading those which are missing.

    Args:
        dataset: The kind of data set, for the folder and for messages.
        files: Its files.

    Raises:
        DataError: If a file is missing and cannot be had; says how to get all of them by hand.
    """
    folder = cache_folder(dataset)
    if all((folder / file.name).is_file() for file in files):
        return folder
    from diffkit.data.download import Unavailable, download  # its libraries are slow to import, and seldom needed

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _one_process_at_a_time(folder):
            for file in files:
                download(file, folder)
    except Unavailable as error:
        raise DataError(_by_hand(dataset, files, folder, str(error))) from None
    except OSError as error:
        raise DataError(_by_hand(dataset, files, folder, f"{folder}: {error.strerror or error}")) from None
    return folder


def missing(dataset: str, files: Sequence[RemoteFile], root: Path) -> DataError:
    """Return the error for a `data.root` that does not hold a data set."""
    names = " and ".join(file.name for file in files)
    urls = "".join(f"\n  {file.urls[0]}" for file in files)
    return DataError(
        f"{dataset}: no {names} in data.root = {root}\n"
        f"Put there what is at{urls}\n"
        f"or leave data.root away: the files are then downloaded to {cache_folder(dataset)}"
    )


def _by_hand(dataset: str, files: Sequence[RemoteFile], folder: Path, reason: str) -> str:
    urls = "".join(f"\n  {file.urls[0]}" for file in files)
    return (
        f"{dataset}: its files are not on this computer and cannot be downloaded: {reason}\n"
        f"Fetch{urls}\n"
        f"and put them, without unpacking, into a folder that data.root names, or into {folder}"
    )


@contextlib.contextmanager
def _one_process_at_a_time(folder: Path) -> Iterator[None]:
    """Make other processes wait that want the same files; where the system has no such locks, do nothing."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
