"""The C sources as a library: compiled once for each machine, kept in the user's cache, and loaded.

Where that cannot be done, torch's own operations take their place.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import platformdirs
import torch

from diffkit.errors import UserError

ENVIRONMENT = "DIFFKIT_KERNELS"
"""Environment variable: "plain" for torch's own operations only, "compiled" to fail where there are no others."""
SETTINGS = ("auto", "plain", "compiled")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-nodefaultlibs")


class Unavailable(Exception):
    """There is no library, for this reason."""


class Kernels(NamedTuple):
    """The library, if there is one.

    Attributes:
        library: What was loaded, or None.
        reason: Why nothing was.
        lanes: Number of channels that are computed at once, which the channels must be multiples of.
    """

    library: ctypes.CDLL | None
    reason: str = ""
    lanes: int = 1


@functools.cache
def kernels() -> Kernels:
    """Return the library, compiling it if that hasn't been done on this machine.

    Raises:
        UserError: If the environment asks for something that there isn't.
    """
    setting = os.environ.get(ENVIRONMENT, "auto")
    if setting not in SETTINGS:
        raise UserError(f"{ENVIRONMENT}={setting}: unknown. Allowed: {', '.join(SETTINGS)}")
    if setting == "plain":
        return Kernels(None, f"{ENVIRONMENT}=plain")
    try:
        library = ctypes.CDLL(str(_compiled()))
    except (Unavailable, OSError) as error:
        if setting == "compiled":
            raise UserError(f"{ENVIRONMENT}=compiled: {error}") from None
        return Kernels(None, str(error))
    library.winograd_workspace.restype = ctypes.c_size_t
    library.lanes.restype = ctypes.c_long
    return Kernels(library, "", library.lanes())


def _compiled() -> Path:
    """Return the library's file, for these sources, this compiler and this processor."""
    threads = _thread_library()
    compiler = shlex.split(os.environ.get("CC") or "gcc")
    sources = {file.name: file.read_bytes() for file in files("diffkit.kernels").joinpath("source").iterdir()}
    program = shutil.which(compiler[0])
    if program is None:
        raise Unavailable(f"no C compiler: '{compiler[0]}' cannot be run")
    version = program, Path(program).stat().st_size, Path(program).stat().st_mtime_ns
    digest = hashlib.sha256(repr((sorted(sources.items()), compiler, version, FLAGS, threads, _processor())).encode())
    folder = _own_folder(platformdirs.user_cache_path("diffkit") / "kernels")
    library = folder / f"{digest.hexdigest()[:32]}.so"
    if not library.is_file():
        _compile(compiler, sources, threads, library)
    return library


def _compile(compiler: list[str], sources: dict[str, bytes], threads: str, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as name:
        folder = Path(name)
        for file, text in sources.items():
            (folder / file).write_bytes(text)
        names = sorted(file for file in sources if file.endswith(".c"))
        command = [*compiler, *FLAGS, *names, threads, "-lm", "-lc", "-o", library.name]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"{shlex.join(command)} failed:\n{done.stderr}")
        (folder / library.name).replace(library)


def _thread_library() -> str:
    """Return the OpenMP library that torch has loaded, so that both share one set of threads."""
    if platform.system() != "Linux":
        raise Unavailable("compiled for Linux only")
    loaded = {line.split(maxsplit=5)[-1].strip() for line in Path("/proc/self/maps").read_text().splitlines()}
    found = sorted(path for path in loaded if Path(path).name.startswith("libgomp"))
    if not found:
        raise Unavailable(f"torch {torch.__version__} has no GNU OpenMP")
    return found[0]


def _processor() -> str:
    """Return what tells processors with other instructions apart: homes may be shared by several machines."""
    described = Path("/proc/cpuinfo").read_text()
    return platform.machine() + next((line for line in described.splitlines() if line.startswith("flags")), "")


def _own_folder(folder: Path) -> Path:
    """Return the folder after making it; only its owner may put a library there, as it will be run."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Unavailable(f"{folder} can be written by others")
    return folder
