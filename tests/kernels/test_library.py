import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from diffkit.errors import UserError
from diffkit.kernels import library
from diffkit.kernels.library import kernels


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Return a function that looks for the library as a new process would, in an empty cache."""
    monkeypatch.setattr(library.platformdirs, "user_cache_path", lambda name: tmp_path / name)
    return lambda: kernels.__wrapped__()


def test_it_is_compiled_once_and_kept(fresh, tmp_path, monkeypatch):
    assert fresh().library is not None
    (file,) = (tmp_path / "diffkit/kernels").iterdir()
    assert file.stat().st_uid == os.getuid()
    before = file.stat().st_mtime_ns
    monkeypatch.setattr(library, "_compile", lambda *_: pytest.fail("compiled again"))
    assert fresh().library is not None
    assert file.stat().st_mtime_ns == before


def test_other_flags_make_another_library(fresh, tmp_path, monkeypatch):
    fresh()
    monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, "-g"))
    fresh()
    assert len(list((tmp_path / "diffkit/kernels").iterdir())) == 2


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names the vectors of one architecture")
@pytest.mark.parametrize("flag, lanes", [("-march=x86-64", 4), ("-march=x86-64-v3", 8)])
def test_narrower_vectors_compute_the_same(flag, lanes):
    script = f"""
import torch
from diffkit.kernels import library
library.FLAGS = tuple("{flag}" if one == "-march=native" else one for one in library.FLAGS)
from diffkit.kernels.convolution import winograd_conv2d
from diffkit.kernels.normalization import group_norm
torch.manual_seed(0)

def compare(function, exact, *shapes):
    leaves = [torch.randn(shape, requires_grad=True) for shape in shapes]
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    y, right = function(*leaves), exact(*doubles)
    found = [y, *torch.autograd.grad(y.sin().sum(), leaves)]
    for one, other in zip(found, [right, *torch.autograd.grad(right.sin().sum(), doubles)]):
        assert (one - other).abs().max() < 1e-4 * other.abs().max()

compare(
    lambda x, w: winograd_conv2d(x, w / 20, None),
    lambda x, w: torch.nn.functional.conv2d(x, w / 20, padding=1),
    (2, 48, 9, 9), (32, 48, 3, 3),
)
compare(
    lambda x, w, b: group_norm(x, w.expand(2, -1), b.expand(2, -1), 4, 1e-6, True)[0],
    lambda x, w, b: torch.nn.functional.silu(torch.nn.functional.group_norm(x, 4, w, b, 1e-6)),
    (2, 48, 9, 9), (48,), (48,),
)
print(library.kernels().lanes)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{lanes}\n", "")


def test_plain_is_one_setting_away(fresh, monkeypatch):
    monkeypatch.setenv("DIFFKIT_KERNELS", "plain")
    assert fresh().library is None


def test_an_unknown_setting_names_those_that_are_known(fresh, monkeypatch):
    monkeypatch.setenv("DIFFKIT_KERNELS", "fast")
    with pytest.raises(UserError, match=r"DIFFKIT_KERNELS=fast: unknown\. Allowed: auto, plain, compiled"):
        fresh()


def test_without_a_compiler_torchs_operations_are_used_and_the_reason_is_known(fresh, monkeypatch):
    monkeypatch.setenv("CC", "/nowhere/cc")
    assert "'/nowhere/cc' cannot be run" in fresh().reason
    monkeypatch.setenv("DIFFKIT_KERNELS", "compiled")
    with pytest.raises(UserError, match="DIFFKIT_KERNELS=compiled: no C compiler"):
        fresh()


def test_what_the_compiler_says_is_passed_on(fresh, monkeypatch, tmp_path):
    monkeypatch.setattr(library, "FLAGS", ("-no-such-flag",))
    assert "no-such-flag" in fresh().reason
    assert list((tmp_path / "diffkit/kernels").iterdir()) == []


def test_a_damaged_library_is_not_fatal(fresh):
    file = library._compiled()
    file.write_bytes(b"not a library")
    assert fresh().library is None
    assert file.name in fresh().reason


@pytest.mark.parametrize("mode", [0o770, 0o777])
def test_a_folder_that_others_can_write_to_is_not_run_from(fresh, tmp_path, mode):
    folder = tmp_path / "diffkit/kernels"
    folder.mkdir(parents=True)
    folder.chmod(mode)
    assert "can be written by others" in fresh().reason
    assert list(folder.iterdir()) == []


def test_the_sources_are_in_the_package():
    names = {file.name for file in (Path(library.__file__).parent / "source").iterdir()}
    assert {"winograd.c", "group_norm.c", "vectors.h"} <= names
