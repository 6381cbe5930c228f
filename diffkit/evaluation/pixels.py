"""Pixels as features."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from diffkit.data.base import Dataset
from diffkit.data.pixels import to_unit
from diffkit.evaluation.features import Extractor, Features


class Pixels(Features):
    """The pixels themselves, in [-1, 1]: C × H × W numbers.

    They need no network, but see little of what people see: a shift by one pixel is a large distance. Use them for
    small images, and to find errors.
    """

    kind: Literal["pixels"] = "pixels"

    def prepare(self, dataset: Dataset, device: torch.device | str = "cpu") -> Extractor:
        """Return the extractor, which needs nothing."""
        return _PixelExtractor(device)


class _PixelExtractor(Extractor):
    def features(self, images: Tensor) -> Tensor:
        return to_unit(images).flatten(1)
