"""Files from the network: checked, resumed where they broke off, and whole or not there at all."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs
import pooch
import requests
import urllib3

from diffkit.data.progress import progress_bar
from diffkit.errors import DataError

ENVIRONMENT = "DIFFKIT_DATA"
"""Environment variable that names the folder of downloaded data sets."""

TIMEOUT = 30.0
"""Seconds without a byte from a server until it is given up."""

CHUNK = 2**18


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _one_process_at_a_time(folder):
            for file in files:
                _fetch_one(file, folder)
    except _Unavailable as error:
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


class _Unavailable(Exception):
    """A file cannot be had, from any place."""


def _fetch_one(file: RemoteFile, folder: Path) -> None:
    reasons = []
    for url in file.urls:
        host = urlsplit(url).netloc
        try:
            _retrieve(file, url, folder)
            return
        except requests.HTTPError as error:
            reasons.append(f"{host} answered {error.response.status_code} {error.response.reason}")
        except (requests.RequestException, urllib3.exceptions.HTTPError):
            reasons.append(f"no connection to {host}")
        except ValueError:
            reasons.append(f"{host} sent something else than {file.name} (its SHA-256 differs)")
    raise _Unavailable("; ".join(reasons))


def _retrieve(file: RemoteFile, url: str, folder: Path) -> None:
    """Let pooch check, download, check again and rename."""
    part = folder / f"{file.name}.part"
    was_begun = part.exists()
    pooch.get_logger().setLevel(logging.WARNING)  # the progress bar says it already

    def retrieve() -> None:
        pooch.retrieve(url, f"sha256:{file.sha256}", file.name, folder, downloader=ResumingDownloader(part, file.name))

    try:
        retrieve()
    except ValueError:  # pooch's word for a wrong hash
        if not was_begun:
            raise
        retrieve()  # the part that was left over was of another file; it is gone now


class ResumingDownloader:
    """Downloads to a part file, going on where an earlier try or a broken connection left it.

    Args:
        part: The part file; it is renamed once it is complete.
        name: What the progress bar says.
    """

    def __init__(self, part: Path, name: str) -> None:
        self._part = part
        self._name = name

    def __call__(self, url: str, output_file: str, pooch: Any, check_only: bool = False) -> None:
        """Download a file; pooch calls this.

        Raises:
            requests.RequestException: If the server cannot be reached or refuses.
            urllib3.exceptions.HTTPError: If the connection broke and broke again before another byte came.
        """
        complete = False
        while not complete:
            before = self._size()
            try:
                complete = self._go_on(url)
            except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError):
                if self._size() <= before:
                    raise
        self._part.replace(output_file)

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _go_on(self, url: str) -> bool:
        """Download what is missing; return whether that worked, and not if it must begin anew."""
        have = self._size()
        # Without "identity" a server may compress on its way, and the places in the file would be others.
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            place = response.headers.get("Content-Range", "")
            is_range = response.status_code == requests.codes.partial_content
            if have and response.status_code == requests.codes.requested_range_not_satisfiable:
                if place == f"bytes */{have}":  # only the renaming was missing
                    return True
                self._part.unlink()
                return False
            if is_range and not place.startswith(f"bytes {have}-"):
                self._part.unlink(missing_ok=True)
                raise requests.ConnectionError(f"asked for bytes from {have} on, got {place!r}")
            response.raise_for_status()
            self._save(response, have if is_range else 0)
        return True

    def _save(self, response: requests.Response, done: int) -> None:
        """Write what comes behind the first bytes of the part file, which are kept."""
        length = response.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        with (
            self._part.open("ab" if done else "wb") as out,
            progress_bar(self._name, total, done, is_bytes=True) as advance,
        ):
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                out.write(chunk)
                advance(len(chunk))
        if total is not None and self._size() < total:  # older versions of urllib3 don't say so
            raise urllib3.exceptions.ProtocolError(f"{total - self._size()} bytes are missing")


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
