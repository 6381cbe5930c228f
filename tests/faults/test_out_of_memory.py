"""Memory that runs out: what to lower, and by how much."""

import re
import resource
from pathlib import Path

import pytest
import torch

from diffkit.errors import OutOfMemory
from diffkit.out_of_memory import advising, is_out_of_memory

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

MIB = 2**20

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB of which 1.12 GiB is "
    "free. Including non-PyTorch memory, this process has 22.51 GiB memory in use."
)


def leave(size):
    """Let this process take no more than so many bytes besides what it has."""

    def first():
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + size, resource.RLIM_INFINITY))

    return first


def test_in_a_step(recipe, diffkit, steps_of, tmp_path):
    large = ["train.batch_size=1024", "train.steps=1", "model.channels=16", "model.attention_at=[8, 4]"]
    arguments = ["train", recipe(*large), "--run", "run", "--device", "cpu"]
    done = diffkit(*arguments, first=leave(100 * MIB))
    assert done.code == 2
    (said,) = done.err.splitlines()
    assert re.fullmatch(
        r"Error: out of memory with 1024 images at once, when [\d.]+ MiB more were needed: lower "
        r"train\.device_batch_size to 512, and go on with --run run --resume\. There is no checkpoint yet",
        said,
    )
    done = diffkit(*arguments, "train.device_batch_size=512", "--resume", first=leave(20 * MIB))
    assert "lower train.device_batch_size to 256, and go on with --run run --resume" in done.err
    assert diffkit(*arguments, "train.device_batch_size=64", "--resume", first=leave(100 * MIB)).code == 0
    assert steps_of(tmp_path / "run") == [1]


def test_while_sampling(here, diffkit):
    arguments = ["sample", "runs/tiny-1", "--count", "2048", "--steps", "1", "--device", "cpu"]
    done = diffkit(*arguments, "--batch-size", "2048", first=leave(20 * MIB))
    assert done.code == 2
    assert re.fullmatch(
        r"Error: out of memory with 2048 images at once(, when [\d.]+ MiB more were needed)?: lower "
        r"--batch-size \(batch_size of \[sample\]\) to 1024\n",
        done.err,
    )


def test_where_there_is_nothing_to_halve(here, diffkit):
    done = diffkit("train", "runs/tiny-1", "--run", "run", "model.channels=1024", first=leave(50 * MIB))
    assert done.code == 2
    assert done.err.startswith("Error: out of memory: take a smaller model, or a device with more memory (")


@pytest.mark.parametrize(
    ("error", "more"),
    [
        (torch.OutOfMemoryError(CUDA), ", when 2.00 GiB more were needed"),
        (MemoryError(), ""),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), ""),
        (RuntimeError("could not create a primitive"), ""),
    ],
)
def test_what_others_say(error, more):
    said = f"out of memory with 6 images at once{more}: lower x to 3"
    with pytest.raises(OutOfMemory, match=f"^{re.escape(said)}$") as caught, advising("x", 6):
        raise error
    assert caught.value.__cause__ is error


def test_a_single_image_is_not_halved():
    said = "out of memory with 1 image at once: take a smaller model, or a device with more memory"
    with pytest.raises(OutOfMemory, match=f"^{said}$"), advising("x", 1):
        raise MemoryError


def test_other_errors_are_none():
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"), advising("x", 6):
        raise RuntimeError("shapes")
