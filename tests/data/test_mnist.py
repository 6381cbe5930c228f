from __future__ import annotations

import gzip

import numpy as np
import pytest
import torch

from diffkit.data.idx import read_idx
from diffkit.data.mnist import FashionMnist, Mnist
from diffkit.errors import DataError

ARRAY = np.arange(2 * 3 * 4).reshape(2, 3, 4)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_reads_idx(tmp_path, idx_bytes, pack):
    (tmp_path / "file").write_bytes(pack(idx_bytes(ARRAY)))
    np.testing.assert_array_equal(read_idx(tmp_path / "file", 3), ARRAY)


def damaged(idx_bytes):
    good = idx_bytes(ARRAY)
    giant = b"\0\0\x08\x03" + b"\xff" * 12
    return {
        "empty": (b"", "begins with nothing"),
        "a word": (b"hello, this is text", "begins with 68 65 6c 6c, not with 00 00 08 03"),
        "other type": (idx_bytes(ARRAY, b"\0\0\x0d\x03"), "begins with 00 00 0d 03"),
        "other axes": (idx_bytes(ARRAY[0]), "begins with 00 00 08 02"),
        "cut in its header": (good[:10], "cut off in its header"),
        "cut": (good[:-1], "cut off: its header says 2×3×4 bytes"),
        "too long": (good + b"x", "too long: its header says 2×3×4 bytes"),
        "no images": (idx_bytes(np.zeros((0, 28, 28))), "empty: its header says 0×28×28"),
        "giant": (giant, "and 1073741824 are allowed"),
        "giant gzip": (gzip.compress(giant), "and 1073741824 are allowed"),
        "cut gzip": (gzip.compress(good)[:-10], "damaged gzip file"),
        "broken gzip": (gzip.compress(good)[:-8] + bytes(8), "damaged gzip file"),
        "gzip in name only": (b"\x1f\x8b garbage", "damaged gzip file"),
    }


@pytest.mark.parametrize("how", damaged(lambda *_: b""))
def test_refuses_damaged_idx(tmp_path, idx_bytes, how):
    content, message = damaged(idx_bytes)[how]
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=f"^{tmp_path}/file: .*{message}"):
        read_idx(tmp_path / "file", 3)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_damaged_idx_never_gives_another_error(tmp_path, idx_bytes, pack):
    content, generator = pack(idx_bytes(ARRAY)), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        for place in generator.integers(0, len(content), 2):
            damaged[place] = generator.integers(256)
        (tmp_path / "file").write_bytes(damaged)
        try:
            assert read_idx(tmp_path / "file", 3).shape == ARRAY.shape
        except DataError as error:
            assert str(tmp_path) in str(error)


def test_idx_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_idx(tmp_path, 3)


def test_splits_and_names_of_files(mnist_root):
    assert len(Mnist(root=mnist_root).open()) == 30
    test = Mnist(root=mnist_root, split="test").open()
    assert len(test) == 20
    assert test.labels(torch.arange(12)).tolist() == [*range(10), 0, 1]


@pytest.mark.parametrize(("kind", "folder"), [(Mnist, "MNIST"), (FashionMnist, "FashionMNIST")])
def test_finds_the_folder_of_torchvision(tmp_path, mnist_root, kind, folder):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "raw").symlink_to(mnist_root)
    assert len(kind(root=tmp_path).open()) == 30


def test_the_real_fashion(fashion_mnist):
    train, test = fashion_mnist.open(), FashionMnist(split="test").open()
    assert (len(train), len(test)) == (60_000, 10_000)
    assert torch.bincount(train.labels(torch.arange(60_000))).tolist() == [6_000] * 10
    names = [FashionMnist().info().classes[i] for i in train.labels(torch.arange(4))]
    assert names == ["Ankle boot", "T-shirt/top", "T-shirt/top", "Dress"]
    # The mean of the training pixels that everybody normalizes with is 0.2860.
    assert train.pixels(torch.arange(60_000)).float().mean().item() / 255 == pytest.approx(0.2860, abs=5e-5)


def test_info_needs_no_files(tmp_path):
    info = Mnist(root=tmp_path / "nowhere").info()
    assert info.shape == (1, 28, 28)
    assert info.classes == tuple("0123456789")


def test_finds_earlier_downloads(downloads, mnist_root):
    downloads.mkdir()
    (downloads / "mnist").symlink_to(mnist_root)
    assert len(Mnist().open()) == 30


def test_an_empty_root_says_what_to_do(tmp_path, downloads):
    with pytest.raises(DataError) as error:
        Mnist(root=tmp_path).open()
    assert str(error.value) == (
        f"mnist: no train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz in data.root = {tmp_path}\n"
        "Put there what is at\n"
        "  https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz\n"
        "  https://ossci-datasets.s3.amazonaws.com/mnist/train-labels-idx1-ubyte.gz\n"
        f"or leave data.root away: the files are then downloaded to {downloads}/mnist"
    )


def write(root, idx_bytes, images, labels):
    (root / "train-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (root / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return Mnist(root=root)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((3, 28, 28)), np.zeros(4), "has 3 images and .* has 4 labels"),
        (np.zeros((3, 14, 28)), np.zeros(3), "images of 14×28, not 28×28"),
        (np.zeros((3, 28, 28)), np.array([0, 1, 10]), "a label is 10, of 10 classes from 0"),
    ],
)
def test_files_that_do_not_fit(tmp_path, idx_bytes, images, labels, message):
    with pytest.raises(DataError, match=message):
        write(tmp_path, idx_bytes, images, labels).open()
