"""What to lower when memory runs out, and by how much."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from diffkit.errors import OutOfMemory

SAYINGS = re.compile(
    "DefaultCPUAllocator|out of memory|not enough memory|ALLOC_FAILED|bad_alloc|bad allocation"
    "|could not create a primitive"  # oneDNN
)
"""What torch's allocators, its libraries and C++ say; only that of CUDA has a type of its own."""

NO_LESS = "take a smaller model, or a device with more memory"
"""What to do where a single image is too much, or what was too much is no image."""

TRIED = re.compile(r"[Tt]ried to allocate (\d+) bytes|Tried to allocate ([\d.]+ [KMG]iB)")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of Python, NumPy or torch says that there is no memory left."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(SAYINGS.search(str(error))))


@contextlib.contextmanager
def advising(setting: str, images: int) -> Iterator[None]:
    """Say what to do if memory runs out while the block works on some images at once.

    Args:
        setting: What limits their number.
        images: Their number.

    Raises:
        OutOfMemory: Says to lower the setting to half of their number.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        several = f"{images} images" if images > 1 else "1 image"
        lower = f"lower {setting} to {images // 2}" if images > 1 else NO_LESS
        raise OutOfMemory(f"out of memory with {several} at once{_tried(error)}: {lower}") from error


def _tried(error: BaseException) -> str:
    """Return how much was asked for last, in words; nothing where the error doesn't say."""
    if (found := TRIED.search(str(error))) is None:
        return ""
    amount = found[2] or f"{int(found[1]) / 2**20:.1f} MiB"
    return f", when {amount} more were needed"
