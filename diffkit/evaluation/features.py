"""The family of features: what of an image the metrics look at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from diffkit.data.base import Dataset
from diffkit.spec import Component

AT_ONCE = 256
"""So many images, at most, go through an extractor together."""


class Extractor(ABC):
    """Turns images into features; made by `Features.prepare`.

    Args:
        device: Where it computes.
    """

    sha256: str | None = None
    """SHA-256 of the weights, where there are some."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    @torch.inference_mode()
    def extract(self, images: Tensor) -> Tensor:
        """Return the features of images.

        Args:
            images: uint8 ``[N, C, H, W]``, grey or RGB, on any device.

        Returns:
            The features, float32 ``[N, D]`` on the CPU.

        Raises:
            ValueError: If these are no images.
        """
        if images.dtype != torch.uint8 or images.dim() != 4 or len(images) == 0:
            raise ValueError(f"images are uint8 [N, C, H, W], not {images.dtype} {list(images.shape)}")
        return torch.cat([self.features(part.to(self.device)).float().cpu() for part in torch.split(images, AT_ONCE)])

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Return the features ``[n, D]`` of at most `AT_ONCE` images, uint8 ``[n, C, H, W]`` on the device."""

    def classes(self, features: Tensor) -> Tensor | None:
        """Return which class each of some features ``[N, D]`` is of, int64 ``[N]``; None if that isn't known."""
        return None


class Features(Component):
    """What of an image the metrics compare."""

    family = "features"

    @abstractmethod
    def prepare(self, dataset: Dataset, device: torch.device | str = "cpu") -> Extractor:
        """Return an extractor for images of a data set; may download it, or train it, with a progress bar.

        Raises:
            UserError: If it cannot be had, or the images are none for it.
        """

    def about(self, extractor: Extractor) -> dict[str, Any]:
        """Return what a report should say of an extractor: these settings, and the weights' hash."""
        return {**self.model_dump(mode="json"), "sha256": extractor.sha256}
