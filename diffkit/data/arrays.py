"""Images from NumPy's files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from diffkit.data.base import DataInfo, Dataset, Images
from diffkit.data.memory import InMemory
from diffkit.data.numpy_files import read_header, read_member, read_npy
from diffkit.data.unchanged import OpenFile
from diffkit.errors import DataError
from diffkit.spec import FilePath, Many

GIB = 2**30


class Arrays(Dataset):
    """Images from a .npy or .npz file: uint8 pixels, and labels or vectors if wanted. Nothing is ever unpickled."""

    kind: Literal["arrays"] = "arrays"
    path: FilePath
    """The file: .npy with the images, or .npz with several arrays."""
    layout: Literal["NHWC", "NCHW", "NHW"] = "NHWC"
    """Order of the axes: number of the image (N), height, width, channels. NHW is for grey images."""
    images_key: str = "images"
    """Name of the images in a .npz file."""
    labels_key: str | None = None
    """Name of the labels in the same .npz file."""
    labels_path: FilePath | None = None
    """A .npy file with the labels, integers 0..K-1, one an image."""
    vectors_key: str | None = None
    """Name, in the same .npz file, of a vector for each image that conditions the model: numbers [N, V], best of a mean
    near 0 and a standard deviation near 1."""
    classes: Many[str] = ()
    """Names of the classes, in the order of their labels; their numbers by default."""
    memory_limit: float = Field(4.0, ge=0)
    """GiB of memory that the images may take. A .npy file with more is read from the disk as it is needed."""

    @classmethod
    def example_settings(cls) -> dict[str, Any]:
        """Return settings for a file that need not be there."""
        return {"path": "images.npy"}

    @model_validator(mode="after")
    def _one_source_of_labels(self) -> Self:
        if self.labels_key is not None and self.labels_path is not None:
            raise ValueError("labels_key and labels_path both name labels: set one of them")
        if self.classes and self.labels_key is None and self.labels_path is None:
            raise ValueError("classes are named, but no labels: set labels_key or labels_path")
        return self

    def info(self) -> DataInfo:
        """Return the sizes, from the file's header, and the classes, from the labels.

        Raises:
            DataError: If a file is missing or isn't what its settings say.
        """
        shape, dtype = self._header()
        self._check(shape, dtype)
        _, height, width, channels = self._in_nhwc(shape)
        vectors = self._vectors(shape[0])
        size = 0 if vectors is None else vectors.shape[1]
        return DataInfo(channels, height, width, self._classes(self._labels(shape[0])), size)

    def open(self) -> Images:
        """Load the images, or map a large .npy file.

        Raises:
            DataError: If a file is missing or damaged or isn't what its settings say.
        """
        shape, dtype = self._header()
        self._check(shape, dtype)
        labels, vectors = self._labels(shape[0]), self._vectors(shape[0])
        self._classes(labels)
        is_large = int(np.prod(shape, dtype=np.int64)) > self.memory_limit * GIB
        with _explained(self.path):
            file = OpenFile(self.path)
            if self.path.suffix == ".npz":
                array = read_member(self.path, self.images_key, "data.images_key")
            else:
                array = read_npy(self.path)
        mapped = MappedImages(array, self.layout, labels, file)
        if is_large and isinstance(array, np.memmap):
            return mapped
        return InMemory(mapped.pixels(torch.arange(len(mapped))), labels, vectors)

    def _header(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and type of the images without reading them."""
        with _explained(self.path):
            if self.path.suffix == ".npy":
                if zipfile.is_zipfile(self.path):
                    raise DataError(f"{self.path}: this is a .npz file: name it so")
                array = read_npy(self.path)
                return array.shape, array.dtype
            if self.path.suffix == ".npz":
                return read_header(self.path, self.images_key, "data.images_key")
        raise DataError(f"{self.path}: data.path names a .npy or .npz file")

    def _check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if dtype != np.uint8:
            raise DataError(
                f"{self.path}: the images are {dtype}, not uint8. Convert them once: "
                "np.save(file, np.rint(255 * x).clip(0, 255).astype(np.uint8)) for x in [0, 1], "
                "or with 127.5 * (x + 1) for x in [-1, 1]"
            )
        if len(shape) != len(self.layout):
            hint = (
                'set data.layout = "NHW" for grey images' if len(shape) == 3 else 'set data.layout to "NHWC" or "NCHW"'
            )
            raise DataError(
                f"{self.path}: the images have the shape {list(shape)}, and data.layout = {self.layout} "
                f"has {len(self.layout)} axes" + (f": {hint}" if len(shape) in (3, 4) else "")
            )
        if 0 in shape:
            raise DataError(f"{self.path}: empty: the images have the shape {list(shape)}")

    def _in_nhwc(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        sizes = dict(zip(self.layout, shape, strict=True))
        return sizes["N"], sizes["H"], sizes["W"], sizes.get("C", 1)

    def _labels(self, count: int) -> Tensor | None:
        """Read and check the labels."""
        if self.labels_key is not None:
            if self.path.suffix != ".npz":
                raise DataError(
                    f"{self.path}: data.labels_key is for .npz files: name the labels with data.labels_path"
                )
            source = f"{self.path}: '{self.labels_key}'"
            with _explained(self.path):
                labels = read_member(self.path, self.labels_key, "data.labels_key")
        elif self.labels_path is not None:
            source = str(self.labels_path)
            with _explained(self.labels_path):
                if zipfile.is_zipfile(self.labels_path):
                    raise DataError(f"{source}: data.labels_path names a .npy file")
                labels = read_npy(self.labels_path)
        else:
            return None
        if labels.dtype.kind not in "iu" or labels.shape != (count,):
            raise DataError(
                f"{source}: labels are integers, one for each of the {count} images, "
                f"not {labels.dtype} of the shape {list(labels.shape)}"
            )
        if labels.min() < 0:
            raise DataError(f"{source}: a label is {labels.min()}; they count from 0")
        known = len(self.classes)
        if known and labels.max() >= known:
            raise DataError(f"{source}: a label is {labels.max()}, and data.classes names {known} classes from 0")
        if not known and labels.max() >= len(np.unique(labels)):
            raise DataError(
                f"{source}: the labels go up to {labels.max()} and leave numbers out: "
                "count them from 0 without a gap, or name all classes with data.classes"
            )
        return torch.from_numpy(labels.astype(np.int64))

    def _vectors(self, count: int) -> Tensor | None:
        """Read and check the vectors."""
        if self.vectors_key is None:
            return None
        if self.path.suffix != ".npz":
            raise DataError(f"{self.path}: data.vectors_key is for .npz files: save images and vectors in one")
        with _explained(self.path):
            vectors = read_member(self.path, self.vectors_key, "data.vectors_key")
        source = f"{self.path}: '{self.vectors_key}'"
        if vectors.dtype.kind not in "iuf" or vectors.ndim != 2 or len(vectors) != count or vectors.shape[1] == 0:
            raise DataError(
                f"{source}: vectors are numbers [N, V], one vector for each of the {count} images, "
                f"not {vectors.dtype} of the shape {list(vectors.shape)}"
            )
        vectors = vectors.astype(np.float32)
        if not np.isfinite(vectors).all():
            raise DataError(f"{source}: a number is not finite in float32")
        return torch.from_numpy(vectors)

    def _classes(self, labels: Tensor | None) -> tuple[str, ...]:
        if labels is None:
            return ()
        return self.classes or tuple(str(label) for label in range(int(labels.max()) + 1))


class MappedImages(Images):
    """Images that are read from an array, or from a file mapped as one, when they are asked for.

    Args:
        array: uint8, with the axes of the layout.
        layout: ``NHWC``, ``NCHW`` or ``NHW``.
        labels: int64 ``[N]``, or None.
        file: The file; None for an array in memory.
    """

    def __init__(
        self, array: NDArray[np.uint8], layout: str, labels: Tensor | None, file: OpenFile | None = None
    ) -> None:
        self._array, self._file = array, file
        self._layout = layout
        self._labels = labels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._array)

    def pixels(self, indices: Tensor) -> Tensor:
        """Return images as uint8 ``[n, C, H, W]``.

        Raises:
            DataError: If somebody wrote to the file.
        """
        if self._file is not None:
            self._file.check()
        images = np.asarray(self._array[indices.numpy()])
        if self._layout == "NHW":
            images = images[:, None]
        elif self._layout == "NHWC":
            images = images.transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(images))

    def labels(self, indices: Tensor) -> Tensor | None:
        """Return labels as int64 ``[n]``; None without labels."""
        return None if self._labels is None else self._labels[indices]


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say in one message what is wrong with a file."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise DataError(f"{path}: does not fit into memory: save the images as .npy, which is read as needed") from None
    except Exception as error:  # NumPy's parser of headers raises anything at all on damaged ones
        if "pickle" in str(error) or "Python objects" in str(error):
            reason = "it holds Python objects, which are never loaded: save it as an array of numbers"
        else:
            reason = f"damaged, or not a file of NumPy's ({error})"
        raise DataError(f"{path}: {reason}") from None
