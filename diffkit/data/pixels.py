"""Pixels to numbers and back: a pixel u of 0..255 is ``u / 127.5 - 1``, in [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor


def to_unit(pixels: Tensor) -> Tensor:
    """Turn uint8 pixels of any shape into float32 in [-1, 1]."""
    return pixels.to(torch.float32) / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Turn floats of any shape into uint8 pixels: the nearest one; below -1 it is 0, above 1 it is 255."""
    return ((images.to(torch.float32) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
