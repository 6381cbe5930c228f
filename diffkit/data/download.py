"""Downloads: checked, resumed where they broke off, and whole or not there at all."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pooch
import requests
import urllib3

from diffkit.data.progress import progress_bar
from diffkit.data.remote import RemoteFile

TIMEOUT = 30.0
"""Seconds without a byte from a server until it is given up."""

CHUNK = 2**18

LARGEST = 2**30
"""No file of a data set is longer, in bytes: a server that sends more sends something else."""


class Unavailable(Exception):
    """A file cannot be had, from any place."""


def download(file: RemoteFile, folder: Path) -> None:
    """Download one file into a folder, from the first place that has it.

    Raises:
        Unavailable: If none has; says why of each.
    """
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
    raise Unavailable("; ".join(reasons))


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
            progress_bar(self._name, total, done, of="bytes") as advance,
        ):
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                done += len(chunk)
                if done > LARGEST:
                    raise ValueError(f"more than {LARGEST} bytes")
                out.write(chunk)
                advance(len(chunk))
        if total is not None and self._size() < total:  # older versions of urllib3 don't say so
            raise urllib3.exceptions.ProtocolError(f"{total - self._size()} bytes are missing")
