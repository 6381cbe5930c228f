"""The pictures that are to be edited."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffkit.data.decode import UnreadablePictureError, decode, decode_as_is
from diffkit.errors import UserError


def read_pictures(files: Sequence[Path], shape: tuple[int, int, int], *, resize: bool = False) -> Tensor:
    """Read pictures that have the size and the channels of a model's images.

    Args:
        files: The pictures.
        shape: What is wanted, ``(C, H, W)``.
        resize: Take others too: scaled, cropped, laid on white and turned to grey as a folder of images is.

    Returns:
        uint8 ``[N, C, H, W]``.

    Raises:
        UserError: If some can't be read or don't fit; names all of them and says what is wanted.
    """
    channels, height, width = shape
    if channels not in (1, 3):
        raise UserError(f"the model's images have {channels} channels, and pictures have 1 (grey) or 3 (color)")
    pixels, wrong = [], []
    for file in files:
        try:
            if resize:
                pixels.append(decode(file, (height, width), channels, background="white"))
            else:
                pixels.append(decode_as_is(file, (height, width), channels))
        except UnreadablePictureError as error:
            wrong.append(f"  {file}: {error}")
    if wrong:
        wanted = f"{height}x{width} pixels (height x width), {'grey' if channels == 1 else 'in color or grey'}"
        hint = "" if resize else "\n--resize scales, crops and converts pictures that are not so"
        raise UserError("\n".join([f"pictures of {wanted}, are wanted, and these are not:", *wrong]) + hint)
    return torch.from_numpy(np.stack(pixels))


def read_mask(file: Path, size: tuple[int, int], *, resize: bool = False) -> Tensor:
    """Read a mask: white where an image is to be painted anew, black where it is kept.

    Args:
        file: A picture.
        size: Height and width that are wanted.
        resize: Take one of another size too, and greys: what is lighter than the middle is white.

    Returns:
        True where it is white: booleans ``[H, W]``.

    Raises:
        UserError: If it can't be read or doesn't fit, or isn't black and white.
    """
    mask = read_pictures([file], (1, *size), resize=resize)[0, 0]
    if not resize and (grey := int(((mask > 0) & (mask < 255)).sum())):
        raise UserError(
            f"{file}: {grey} pixels are neither black (keep) nor white (paint anew): --resize takes the lighter ones "
            "for white"
        )
    return mask >= 128
