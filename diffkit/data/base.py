"""The family of data sets, and what a data set is once it is open."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from diffkit.bounds import LARGEST_IMAGE
from diffkit.errors import UserError
from diffkit.spec import Component

Split = Literal["train", "test"]
"""The parts that a data set may come in."""


@dataclass(frozen=True)
class DataInfo:
    """What a model must know of its images, known before any image is read.

    Attributes:
        channels: Number of channels C.
        height: Height H in pixels.
        width: Width W in pixels.
        classes: Names of the classes, in the order of their labels; empty without labels.
        vector: Size of the vector that comes with each image and conditions the model; 0 for none.
    """

    channels: int
    height: int
    width: int
    classes: tuple[str, ...] = ()
    vector: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of one image."""
        return self.channels, self.height, self.width


LARGEST_COUNT = 2**20
"""No images have more classes, and none comes with a longer vector."""


def read_info(said: Any) -> DataInfo:
    """Return what a file says of a model's images, with every value checked.

    Args:
        said: The attributes of a `DataInfo`, as JSON gives them.

    Raises:
        ValueError: If they are of no images that a model could be of.
    """
    if not isinstance(said, dict):
        raise ValueError("no table of sizes and classes")
    info = DataInfo(**{"vector": 0, **said, "classes": tuple(said.get("classes", ()))})
    sizes = (info.channels, info.height, info.width)
    if any(type(size) is not int or size < 1 for size in sizes) or math.prod(sizes) > LARGEST_IMAGE:
        raise ValueError(f"images of the sizes {sizes}")
    if type(info.vector) is not int or not 0 <= info.vector <= LARGEST_COUNT:
        raise ValueError(f"vectors of the size {info.vector}")
    if len(info.classes) > LARGEST_COUNT or not all(isinstance(name, str) for name in info.classes):
        raise ValueError("classes without names, or too many")
    return info


class Images(ABC):
    """An open data set: images by their number."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def pixels(self, indices: Tensor) -> Tensor:
        """Return images as uint8 ``[n, C, H, W]``, for int64 indices ``[n]``."""

    @abstractmethod
    def labels(self, indices: Tensor) -> Tensor | None:
        """Return labels as int64 ``[n]``, for int64 indices ``[n]``; None without labels."""

    def vectors(self, indices: Tensor) -> Tensor | None:
        """Return the images' vectors as float32 ``[n, V]``, for int64 indices ``[n]``; None without any."""
        return None


class Dataset(Component):
    """A set of images of one size, with or without class labels."""

    family = "dataset"

    flip: bool = False
    """Mirror each image left to right with probability one half, anew each time it is drawn."""

    @abstractmethod
    def info(self) -> DataInfo:
        """Return sizes and classes without reading an image: constants, a file's header or a listing.

        Raises:
            DataError: If that takes files which are missing or damaged.
        """

    @abstractmethod
    def open(self) -> Images:
        """Make the images ready to be drawn; may download them.

        Raises:
            DataError: If files are missing and cannot be fetched, or are damaged.
        """


def of_split(dataset: Dataset, split: Split | None = None) -> Dataset:
    """Return the part of a data set for training or for testing.

    Args:
        dataset: The data set, whichever part it is.
        split: The part; by default the one for testing, where there is one.

    Raises:
        UserError: If there is no part for testing.
    """
    field = type(dataset).model_fields.get("split")
    if field is not None and "test" in get_args(field.annotation):
        return dataset.model_copy(update={"split": split or "test"})
    if split == "test":
        raise UserError(f"split = test: the data set '{dataset.kind_name()}' has no images for testing: use train")
    return dataset
