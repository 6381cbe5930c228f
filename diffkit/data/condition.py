"""The family of images that condition the network: what it makes an image from."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from diffkit.data.pixels import to_uint8, to_unit
from diffkit.spec import Component


class Condition(Component):
    """What of an image is shown to the network beside the noisy one, to make the whole image from.

    Training takes it away from the images of the data set; sampling is given images of that kind. The network sees
    it as further channels of its input (as in SR3, Saharia et al. 2022).
    """

    family = "condition"

    @abstractmethod
    def shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape ``(C', h, w)`` of what is left of an image; C' is 0 if nothing is shown."""

    @abstractmethod
    def reduce(self, x0: Tensor) -> Tensor:
        """Return what is left of images ``[N, C, H, W]`` in [-1, 1]: ``[N, C', h, w]``."""

    @abstractmethod
    def spread(self, reduced: Tensor, height: int, width: int) -> Tensor:
        """Return what the network sees of ``[N, C', h, w]`` in [-1, 1]: ``[N, C', height, width]``."""

    @abstractmethod
    def refuses(self, channels: int, height: int, width: int) -> str | None:
        """Return why nothing can be taken from images of this shape, and what would do; None if it can."""

    def channels(self, image_channels: int) -> int:
        """Return the number of channels that the network sees, for images of so many; 0 for none."""
        return self.shape(image_channels, 1, 1)[0]

    def make(self, x0: Tensor) -> Tensor:
        """Return what the network sees of images ``[N, C, H, W]`` in [-1, 1]: ``[N, C', H, W]``.

        What is left of them is rounded to the 256 levels of a pixel, as in the files that sampling is given.
        """
        left = to_unit(to_uint8(self.reduce(x0)))
        return self.spread(left, x0.shape[2], x0.shape[3]).to(x0.dtype)


class NoCondition(Condition):
    """Nothing: the network makes images from noise alone."""

    kind: Literal["none"] = "none"

    def shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """Return a shape without channels."""
        return 0, height, width

    def reduce(self, x0: Tensor) -> Tensor:
        """Return images without channels."""
        return x0[:, :0]

    def spread(self, reduced: Tensor, height: int, width: int) -> Tensor:
        """Return the images without channels."""
        return reduced

    def refuses(self, channels: int, height: int, width: int) -> None:
        """Return None."""
        return


class LowResolution(Condition):
    """The image in fewer pixels: super-resolution.

    As in SR3 (Saharia et al. 2022): bicubic interpolation with antialiasing makes the image small, and
    bicubic interpolation makes it large again for the network.
    """

    kind: Literal["low_resolution"] = "low_resolution"
    factor: int = Field(4, ge=2, le=1024)
    """How many times smaller each side is. It must divide both."""

    def shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape of the small images."""
        return channels, height // self.factor, width // self.factor

    def reduce(self, x0: Tensor) -> Tensor:
        """Return the small images."""
        size = self.shape(*x0.shape[1:])[1:]
        return nn.functional.interpolate(x0, size, mode="bicubic", antialias=True)

    def spread(self, reduced: Tensor, height: int, width: int) -> Tensor:
        """Return them in the size of the images."""
        return nn.functional.interpolate(reduced, (height, width), mode="bicubic")

    def refuses(self, channels: int, height: int, width: int) -> str | None:
        """Refuse sides that the factor does not divide."""
        if height % self.factor == 0 and width % self.factor == 0:
            return None
        common = math.gcd(height, width)
        allowed = ", ".join(str(n) for n in range(2, common + 1) if common % n == 0)
        return (
            f"the factor {self.factor} does not divide the sides of images of {height}x{width} (height x width). "
            f"Allowed for these: {allowed or 'none, they have no common divisor'}"
        )


class Grey(Condition):
    """The image without its colors: colorization.

    Y = 0.299 R + 0.587 G + 0.114 B, the luma of ITU-R BT.601, by which Pillow makes pictures grey too.
    """

    kind: Literal["grey"] = "grey"

    def shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape of an image with one channel."""
        return 1, height, width

    def reduce(self, x0: Tensor) -> Tensor:
        """Return the luma."""
        red, green, blue = x0[:, 0:1], x0[:, 1:2], x0[:, 2:3]
        return 0.299 * red + 0.587 * green + 0.114 * blue

    def spread(self, reduced: Tensor, height: int, width: int) -> Tensor:
        """Return the luma."""
        return reduced

    def refuses(self, channels: int, height: int, width: int) -> str | None:
        """Refuse images without three channels."""
        if channels == 3:
            return None
        return f"images of {_count(channels)} have no colors to take away: choose a data set with colors"


def _count(channels: int) -> str:
    return f"{channels} channel{'' if channels == 1 else 's'}"
