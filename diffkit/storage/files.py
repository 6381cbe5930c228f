"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from diffkit.errors import naming

TEMPORARY = ".tmp-"
"""Prefix of what is still being written, or already being deleted."""


def write_atomically(file: Path, content: bytes | str) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old content or the new one."""
    temporary = file.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    with naming(file):
        try:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            sync(temporary)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
        sync(file.parent)


def write_tensors(tensors: Mapping[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file.

    Raises:
        OSError: If the system can't; safetensors itself raises an error of its own.
    """
    file.touch()
    mode = file.stat().st_mode  # as that of any new file; safetensors makes one that nobody else may read
    try:
        safetensors.torch.save_file({name: each.contiguous() for name, each in tensors.items()}, file, metadata)
    except safetensors.SafetensorError as error:
        if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from None
    file.chmod(mode)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on leaving, it gets its name, with all its files on the disk.

    Raises:
        FileExistsError: If the folder exists already; nothing is touched then.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists already")
    temporary = folder.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    with naming(folder):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in temporary.iterdir():
                sync(file)
            sync(temporary)
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync(folder.parent)


def delete_folder(folder: Path) -> None:
    """Delete a folder; it loses its name first, so that half of it is never taken for the whole."""
    temporary = folder.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    folder.rename(temporary)
    shutil.rmtree(temporary)


def delete_leftovers(folder: Path) -> None:
    """Delete what a killed process left half written."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
