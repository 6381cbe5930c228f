"""Images that are held in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from diffkit.data.base import Images


class InMemory(Images):
    """Images, and labels if there are any, as tensors.

    Args:
        pixels: uint8 ``[N, C, H, W]``.
        labels: int64 ``[N]``, or None.
        vectors: float32 ``[N, V]``, or None.

    Raises:
        ValueError: If the tensors are not as said.
    """

    def __init__(self, pixels: Tensor, labels: Tensor | None = None, vectors: Tensor | None = None) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4:
            raise ValueError(f"pixels are uint8 [N, C, H, W], not {pixels.dtype} {list(pixels.shape)}")
        if labels is not None and (labels.dtype != torch.int64 or labels.shape != pixels.shape[:1]):
            raise ValueError(f"labels are int64 [{len(pixels)}], not {labels.dtype} {list(labels.shape)}")
        if vectors is not None and (vectors.dtype != torch.float32 or vectors.shape[:1] != pixels.shape[:1]):
            raise ValueError(f"vectors are float32 [{len(pixels)}, V], not {vectors.dtype} {list(vectors.shape)}")
        self._pixels = pixels
        self._labels = labels
        self._vectors = vectors

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._pixels)

    def pixels(self, indices: Tensor) -> Tensor:
        """Return images as uint8 ``[n, C, H, W]``, on the device where they are held."""
        return self._pixels.index_select(0, indices.to(self._pixels.device))  # far quicker than []

    def labels(self, indices: Tensor) -> Tensor | None:
        """Return labels as int64 ``[n]``, on the device where they are held; None without labels."""
        return None if self._labels is None else self._labels[indices.to(self._labels.device)]

    def vectors(self, indices: Tensor) -> Tensor | None:
        """Return vectors as float32 ``[n, V]``, on the device where they are held; None without any."""
        return None if self._vectors is None else self._vectors[indices.to(self._vectors.device)]

    def to(self, device: torch.device | str) -> InMemory:
        """Return the same images held on another device."""
        others = (None if each is None else each.to(device) for each in (self._labels, self._vectors))
        return InMemory(self._pixels.to(device), *others)
