"""MNIST and Fashion-MNIST."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import torch

from diffkit.data.base import DataInfo, Dataset, Images
from diffkit.data.digits import DIGITS
from diffkit.data.idx import read_idx
from diffkit.data.memory import InMemory
from diffkit.data.remote import RemoteFile, cache_folder, fetch, missing
from diffkit.errors import DataError
from diffkit.spec import FilePath

SIDE = 28


class IdxFiles(Dataset):
    """28×28 grey images in MNIST's four files."""

    torch_folder: ClassVar[str]
    """Name of torchvision's folder for the same files."""
    classes: ClassVar[tuple[str, ...]]
    mirrors: ClassVar[tuple[str, ...]]
    sha256: ClassVar[dict[str, str]]
    places: ClassVar[tuple[Path, ...]] = ()
    """Folders where an operating system's package puts the files."""

    kind: str
    root: FilePath | None = None
    """Folder with the IDX files, compressed or not. By default they are looked for where an operating system's
    package puts them and among earlier downloads, and else downloaded."""
    split: Literal["train", "test"] = "train"
    """The 60,000 images for training or the 10,000 for testing."""

    def info(self) -> DataInfo:
        """Return the sizes, which are constants."""
        return DataInfo(channels=1, height=SIDE, width=SIDE, classes=self.classes)

    def open(self) -> Images:
        """Load all images of the split into memory, after downloading them if they are nowhere.

        Raises:
            DataError: If the files are missing and cannot be had, or are damaged, or don't fit together.
        """
        images_file, labels_file = self._files()
        images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
        if images.shape[1:] != (SIDE, SIDE):
            raise DataError(f"{images_file}: images of {images.shape[1]}×{images.shape[2]}, not {SIDE}×{SIDE}")
        if len(images) != len(labels):
            raise DataError(f"{images_file} has {len(images)} images and {labels_file} has {len(labels)} labels")
        if labels.max() >= len(self.classes):
            raise DataError(f"{labels_file}: a label is {labels.max()}, of {len(self.classes)} classes from 0")
        return InMemory(torch.from_numpy(images)[:, None], torch.from_numpy(labels).long())

    def _files(self) -> tuple[Path, Path]:
        """Return where images and labels are."""
        remote = self._remote()
        if self.root is not None:
            found = _find(remote, (self.root, self.root / self.torch_folder / "raw"))
            if found is None:
                raise missing(self.kind, remote, self.root)
            return found
        found = _find(remote, (*self.places, cache_folder(self.kind)))
        if found is None:
            folder = fetch(self.kind, remote)
            found = folder / remote[0].name, folder / remote[1].name
        return found

    def _remote(self) -> tuple[RemoteFile, RemoteFile]:
        prefix = "train" if self.split == "train" else "t10k"
        names = f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"
        images, labels = (
            RemoteFile(name, tuple(mirror + name for mirror in self.mirrors), self.sha256[name]) for name in names
        )
        return images, labels


class Mnist(IdxFiles):
    """70,000 handwritten digits, 28×28, white on black, 10 classes.

    LeCun, Cortes and Burges, "The MNIST database of handwritten digits" (1998).
    """

    classes: ClassVar[tuple[str, ...]] = DIGITS
    mirrors: ClassVar[tuple[str, ...]] = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )
    sha256: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    }
    torch_folder: ClassVar[str] = "MNIST"

    kind: Literal["mnist"] = "mnist"


class FashionMnist(IdxFiles):
    """70,000 pieces of clothing, 28×28, on black, 10 classes.

    Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms"
    (2017), https://arxiv.org/abs/1708.07747. Debian's package `dataset-fashion-mnist` is found by itself.
    """

    classes: ClassVar[tuple[str, ...]] = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    mirrors: ClassVar[tuple[str, ...]] = (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    )
    sha256: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    }
    places: ClassVar[tuple[Path, ...]] = (Path("/usr/share/datasets/fashion-mnist"),)
    torch_folder: ClassVar[str] = "FashionMNIST"

    kind: Literal["fashion_mnist"] = "fashion_mnist"


def _find(files: tuple[RemoteFile, RemoteFile], folders: tuple[Path, ...]) -> tuple[Path, Path] | None:
    """Return the first folder's files, under any of the names in use: ``-idx3`` or ``.idx3``, ``.gz`` or not."""
    for folder in folders:
        found = [next((path for path in _names(folder, file.name) if path.is_file()), None) for file in files]
        if found[0] and found[1]:
            return found[0], found[1]
    return None


def _names(folder: Path, name: str) -> list[Path]:
    plain = name.removesuffix(".gz")
    dotted = plain.replace("-idx", ".idx")
    return [folder / known for known in (name, plain, f"{dotted}.gz", dotted)]
