"""The digits that come with diffkit."""

from __future__ import annotations

from importlib import resources
from typing import Literal

import numpy as np
import torch

from diffkit.data.base import DataInfo, Dataset, Images
from diffkit.data.memory import InMemory
from diffkit.errors import DataError

DIGITS = tuple("0123456789")
"""Names of the classes of handwritten digits."""


class Digits(Dataset):
    """1,797 handwritten digits, 8×8, white on black, 10 classes; part of diffkit, so they need no network.

    Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998),
    https://doi.org/10.24432/C50P49, CC BY 4.0. An original value v of 0..16 becomes the pixel 255 v / 16,
    rounded, with the half up.
    """

    kind: Literal["digits"] = "digits"

    def info(self) -> DataInfo:
        """Return the sizes, which are constants."""
        return DataInfo(channels=1, height=8, width=8, classes=DIGITS)

    def open(self) -> Images:
        """Load all images into memory.

        Raises:
            DataError: If the installation of diffkit is damaged.
        """
        file = resources.files("diffkit.data") / "files" / "digits.npz"
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                values, labels = arrays["images"].astype(np.uint16), arrays["labels"].astype(np.int64)
        except Exception as error:
            raise DataError(f"digits: {file} is part of diffkit and cannot be read: install diffkit anew") from error
        pixels = ((values * 255 + 8) // 16).astype(np.uint8)
        return InMemory(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels))
