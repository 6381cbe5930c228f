"""Images on disk: numbered files and one grid."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffkit.errors import naming


def to_picture(image: Tensor) -> Image.Image:
    """Turn uint8 ``[C, H, W]`` into a picture.

    One channel is grey, three are RGB, four RGBA; any other number is shown side by side in grey.
    """
    channels = image.shape[0]
    if channels not in (1, 3, 4):
        image = torch.cat(list(image.unsqueeze(1)), dim=2)
    array = image.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[-1] == 1 else array))


def grid(images: Tensor, columns: int | None = None, gap: int = 1) -> Tensor:
    """Lay uint8 images ``[N, C, H, W]`` out row by row on white: ``[C, rows (H + gap) + gap, ...]``.

    Args:
        images: The images.
        columns: How many go in a row; as good as square by default.
        gap: Pixels between two images and around all.
    """
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    out = images.new_full((channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 255)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        out[:, top : top + height, left : left + width] = image
    return out


def save_png(image: Tensor, file: Path, smallest_side: int = 0) -> None:
    """Save uint8 ``[C, H, W]`` as PNG, its pixels enlarged by a whole factor up to a smallest side."""
    factor = math.ceil(smallest_side / min(image.shape[-2:]))
    if factor > 1:
        image = image.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
    with naming(file):
        to_picture(image).save(file, "PNG")
