from __future__ import annotations

import io
import tarfile

import pytest
import torch

from diffkit.data.cifar10 import Cifar10
from diffkit.errors import DataError


def check_train(images):
    assert len(images) == 50_000
    some = torch.tensor([0, 9_999, 10_000, 49_999])
    pixels = images.pixels(some)
    assert images.labels(some).tolist() == [0, 9, 0, 9]
    assert pixels[:, 0].flatten(1).unique(dim=1).flatten().tolist() == [0, 0, 1, 4]
    assert pixels[:, 1, 5, 5].tolist() == [0, 9_999 % 251, 0, 9_999 % 251]
    assert torch.equal(pixels[0, 2].flatten(), torch.arange(1024).remainder(256).to(torch.uint8))


def test_reads_the_archive(cifar_root):
    check_train(Cifar10(root=cifar_root).open())
    assert len(Cifar10(root=cifar_root / "cifar-10-binary.tar.gz", split="test").open()) == 10_000


def test_reads_extracted_files(tmp_path, cifar_files):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name, content in cifar_files.items():
        (folder / name).write_bytes(content)
    check_train(Cifar10(root=tmp_path).open())
    test = Cifar10(root=folder, split="test").open()
    assert test.pixels(torch.tensor([3]))[0, 0, 0, 0] == 5


def test_info_needs_no_files():
    info = Cifar10().info()
    assert info.shape == (3, 32, 32)
    assert info.classes[6] == "frog"


def test_an_empty_root_says_what_to_do(tmp_path, downloads):
    with pytest.raises(DataError) as error:
        Cifar10(root=tmp_path).open()
    assert str(error.value) == (
        f"cifar10: no cifar-10-binary.tar.gz in data.root = {tmp_path}\n"
        "Put there what is at\n"
        "  https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz\n"
        f"or leave data.root away: the files are then downloaded to {downloads}/cifar10"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], "test_batch.bin is cut off: it has 10000 records of 3073 bytes"),
        (lambda content: content + b"x", "test_batch.bin is too long"),
        (lambda content: b"\x0a" + content[1:], "test_batch.bin has the label 10, of 10 classes from 0"),
        (lambda content: None, "no cifar-10-batches-bin/test_batch.bin in it"),
    ],
)
def test_a_damaged_file(tmp_path, cifar_files, make_archive, change, message):
    changed = change(cifar_files["test_batch.bin"])
    make_archive({} if changed is None else {"test_batch.bin": changed}, tmp_path / "cifar-10-binary.tar.gz")
    with pytest.raises(DataError, match=message):
        Cifar10(root=tmp_path, split="test").open()


@pytest.mark.parametrize("kept", [0, 10, 5_000, -5_000])
def test_a_damaged_archive(tmp_path, cifar_root, kept):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.write_bytes((cifar_root / archive.name).read_bytes()[:kept])
    with pytest.raises(DataError, match=r"damaged archive|cannot be read"):
        Cifar10(root=tmp_path, split="test").open()


def test_an_evil_archive_writes_nothing(tmp_path, cifar_files):
    """Links and other paths that end in the right name are passed over, and nothing appears on the disk."""
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / "cifar-10-binary.tar.gz", "w:gz", compresslevel=1) as tar:
        link = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        outside = tarfile.TarInfo("../cifar-10-batches-bin/test_batch.bin")
        outside.size = 4
        tar.addfile(outside, io.BytesIO(b"evil"))
    with pytest.raises(DataError, match="this is not the binary version of CIFAR-10"):
        Cifar10(root=root, split="test").open()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["cifar-10-binary.tar.gz"]
