"""Data sets of every kind, made in temporary folders, and a folder for downloads of their own for each test."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffkit.data.base import Dataset

PLANE = 32 * 32


@pytest.fixture(autouse=True)
def downloads(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "downloads"
    monkeypatch.setenv("DIFFKIT_DATA", str(folder))
    return folder


@pytest.fixture(scope="session")
def idx_bytes() -> Callable[..., bytes]:
    def make(array: np.ndarray, magic: bytes | None = None) -> bytes:
        magic = magic or bytes([0, 0, 8, array.ndim])
        return magic + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()

    return make


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory, idx_bytes) -> Path:
    """Both splits in one folder, one compressed and one not."""
    root = tmp_path_factory.mktemp("mnist")
    generator = np.random.default_rng(0)
    for prefix, count in (("train", 30), ("t10k", 20)):
        images = idx_bytes(generator.integers(0, 256, (count, 28, 28)))
        labels = idx_bytes(np.arange(count) % 10)
        if prefix == "train":
            (root / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
            (root / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
        else:
            (root / f"{prefix}-images-idx3-ubyte").write_bytes(images)
            (root / f"{prefix}-labels.idx1-ubyte").write_bytes(labels)
    return root


@pytest.fixture(scope="session")
def cifar_files() -> dict[str, bytes]:
    """The six files in their real size: image i of a file has label i % 10, and planes that tell where it was."""
    files = {}
    for number, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        records = np.zeros((10_000, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(10_000) % 10
        records[:, 1 : 1 + PLANE] = number
        records[:, 1 + PLANE : 1 + 2 * PLANE] = (np.arange(10_000) % 251)[:, None]
        records[:, 1 + 2 * PLANE :] = np.arange(PLANE) % 256
        files[name] = records.tobytes()
    return files


@pytest.fixture(scope="session")
def make_archive() -> Callable[[dict[str, bytes], Path], None]:
    def make(files: dict[str, bytes], path: Path) -> None:
        with tarfile.open(path, "w:gz", compresslevel=1) as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

    return make


@pytest.fixture(scope="session")
def cifar_root(tmp_path_factory, cifar_files, make_archive) -> Path:
    root = tmp_path_factory.mktemp("cifar")
    make_archive(cifar_files, root / "cifar-10-binary.tar.gz")
    return root


@pytest.fixture(scope="session")
def picture_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for i in range(12):
            pixels = generator.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02}.png")
    return root


@pytest.fixture(scope="session")
def array_file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("arrays") / "images.npz"
    generator = np.random.default_rng(0)
    np.savez(file, images=generator.integers(0, 256, (25, 6, 8, 3), dtype=np.uint8), labels=np.arange(25) % 4)
    return file


@pytest.fixture
def with_files(request) -> Callable[[type[Dataset]], Dataset]:
    """Makes a kind of data set with real or made files. A kind that it doesn't know is a failure, not a skip."""

    def make(kind: type[Dataset], **settings: Any) -> Dataset:
        files: dict[str, Callable[[], dict[str, Any]]] = {
            "digits": dict,
            "mnist": lambda: {"root": request.getfixturevalue("mnist_root")},
            "fashion_mnist": lambda: request.getfixturevalue("fashion_mnist").model_dump(),
            "cifar10": lambda: {"root": request.getfixturevalue("cifar_root"), "split": "test"},
            "image_folder": lambda: {"root": request.getfixturevalue("picture_root"), "size": [16, 12]},
            "arrays": lambda: {"path": request.getfixturevalue("array_file"), "labels_key": "labels"},
        }
        return kind(**{**files[kind.kind_name()](), **settings})

    return make
