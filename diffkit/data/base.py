"""The family of data sets, and what a data set is once it is open."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from diffkit.spec import Component


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
