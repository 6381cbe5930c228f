"""The family of augmentations, which the network is told of."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from diffkit.spec import Component


class Augmentation(Component):
    """How training changes images, and what it tells the network of that.

    The network sees a vector that says what was done to each image; zeros where nothing was. Sampling shows it zeros,
    so that what it makes looks like the images of the data set: the augmentation does not leak.
    """

    family = "augmentation"

    @property
    @abstractmethod
    def vector_size(self) -> int:
        """Size of the vector; 0 for none."""

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw what happens to each of `count` images: float64 ``[count, D]``, on the device of the generator.

        A step draws for its whole batch at once, so that the rows don't depend on how the batch is cut.
        """

    @abstractmethod
    def apply(self, x0: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """Change images.

        Args:
            x0: Images ``[N, C, H, W]`` in [-1, 1].
            parameters: Rows of what `draw` drew, ``[N, D]``.

        Returns:
            The images, of the same shape and type and in [-1, 1], and the vectors ``[N, vector_size]`` in their type;
            None without.
        """


class NoAugmentation(Augmentation):
    """Images as they are."""

    kind: Literal["none"] = "none"

    @property
    def vector_size(self) -> int:
        """Return 0."""
        return 0

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return ``[count, 0]``, and leave the generator as it is."""
        return torch.empty(count, 0, dtype=torch.float64, device=generator.device)

    def apply(self, x0: Tensor, parameters: Tensor) -> tuple[Tensor, None]:
        """Return the images."""
        return x0, None


class EdmAugmentation(Augmentation):
    """EDM's non-leaky augmentation: flips, scaling, rotation, anisotropy and translation (Karras et al. 2022, appendix
    F.2, table 6).

    Each transformation but the flip in x happens with the chance `probability`, independently of the others. Those
    that happen make one affine map about the image's centre, in this order; the vector has nine entries:

    | transformation | drawn | entries |
    |---|---|---|
    | flip in x | a0 = 0 or 1 | a0 |
    | flip in y | a1 = 0 or 1 | a1 |
    | scaling by ``2^(scale a2)`` | a2 ~ N(0, 1) | a2 |
    | rotation by a3, clockwise | a3 uniform, up to `rotation` both ways | cos a3 - 1, sin a3 |
    | ``2^(anisotropy a5)`` along a direction a4, the inverse across | a4 uniform, a5 ~ N(0, 1) | a5 cos a4, a5 sin a4 |
    | ``translation a6`` widths right, ``translation a7`` heights down | a6, a7 ~ N(0, 1) | a6, a7 |

    As in the authors' code, half of all images are flipped in x whatever `probability` is. So leave ``data.flip`` off:
    of that, the network is not told. What lies outside of an image is its reflection about its edges.

    Images are interpolated once, by a cubic kernel, and cut to [-1, 1]: flips, translations by whole pixels and no
    transformation leave pixels as they are. The authors' code instead samples bilinearly from an image that a wavelet
    filter has doubled, and filters the result down; that has less aliasing where an image shrinks.
    """

    kind: Literal["edm"] = "edm"
    probability: float = Field(0.12, ge=0, le=1)
    """The chance of each transformation but the flip in x: the paper's A_prob. The paper has 0.12 for CIFAR-10 and 0.15
    for FFHQ and AFHQv2."""
    flip_x: bool = True
    """Mirror half of the images left to right."""
    flip_y: bool = True
    """Mirror images top to bottom, half of those that `probability` chooses."""
    scale: float = Field(0.2, ge=0, le=2)
    """Standard deviation of the log2 of the size; 0 for no scaling."""
    rotation: float = Field(180.0, ge=0, le=180)
    """The largest angle, in degrees; 0 for no rotation."""
    anisotropy: float = Field(0.2, ge=0, le=2)
    """Standard deviation of the log2 of the stretching; 0 for none."""
    translation: float = Field(0.125, ge=0, le=1)
    """Standard deviation of the translation, as a part of the image's sides; 0 for none."""

    @property
    def vector_size(self) -> int:
        """Return 9, also where transformations are switched off; their entries are then zero."""
        return 9

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return a0 to a7 of table 6 for each image, zeros for what doesn't happen: float64 ``[count, 8]``."""

        def uniform(columns: int) -> Tensor:
            return torch.rand(count, columns, generator=generator, device=generator.device, dtype=torch.float64)

        flip_x, flip_y = (uniform(2) < 0.5).unbind(1)
        angle, direction = (math.pi * (2 * uniform(2) - 1)).unbind(1)
        normal = torch.randn(count, 4, generator=generator, device=generator.device, dtype=torch.float64)
        scale, stretch, right, down = normal.unbind(1)
        flipped, scaled, rotated, stretched, moved = (uniform(5) < self.probability).unbind(1)
        stretched, moved = stretched * bool(self.anisotropy), moved * bool(self.translation)
        return torch.stack(
            [
                self.flip_x * flip_x,
                self.flip_y * flipped * flip_y,
                bool(self.scale) * scaled * scale,
                self.rotation / 180 * rotated * angle,
                stretched * direction,
                stretched * stretch,
                moved * right,
                moved * down,
            ],
            dim=1,
        )

    def apply(self, x0: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return the transformed images and the vectors ``[N, 9]``."""
        flip_x, flip_y, scale, angle, direction, stretch, right, down = parameters.unbind(1)
        vector = torch.stack(
            [
                *(flip_x, flip_y, scale),
                *(angle.cos() - 1, angle.sin()),
                *(stretch * direction.cos(), stretch * direction.sin()),
                *(right, down),
            ],
            dim=1,
        )
        moved = _interpolate(x0, *self._places(parameters, x0.shape[-2], x0.shape[-1])).clamp(-1, 1)
        changed = (parameters != 0).any(dim=1).view(-1, 1, 1, 1)
        return torch.where(changed, moved.to(x0.dtype), x0), vector.to(x0.dtype)

    def _places(self, parameters: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return where each pixel of the result comes from, as column and row: float64 ``[N, H, W]``."""
        flip_x, flip_y, scale, angle, direction, stretch, right, down = parameters.unbind(1)
        size, longer = torch.exp2(self.scale * scale), torch.exp2(self.anisotropy * stretch)
        # the inverse of each map, the last one outermost; translation comes off before
        inverse = (
            _diagonal(1 - 2 * flip_x, 1 - 2 * flip_y)
            @ _diagonal(1 / size, 1 / size)
            @ _rotation(-angle)
            @ (_rotation(direction) @ _diagonal(1 / longer, longer) @ _rotation(-direction))
        )
        middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
        columns, rows = (torch.arange(side, dtype=torch.float64, device=parameters.device) for side in (width, height))
        x = (columns - middle_x).view(1, 1, width) - (self.translation * width * right).view(-1, 1, 1)
        y = (rows - middle_y).view(1, height, 1) - (self.translation * height * down).view(-1, 1, 1)
        (xx, xy), (yx, yy) = (row.unbind(1) for row in inverse[..., None, None].unbind(1))
        return xx * x + xy * y + middle_x, yx * x + yy * y + middle_y


def _interpolate(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return what images are at real columns and rows ``[N, H, W]``, by cubic convolution (Keys 1981, a = -1/2).

    torch's own bicubic sampling has a = -3/4, which bends straight lines.
    """
    count, channels, height, width = images.shape
    pixels = images.to(torch.promote_types(images.dtype, torch.float32)).flatten(2)
    result = torch.zeros_like(pixels)
    columns, rows = _neighbors(x, width), _neighbors(y, height)
    for row, row_weight in rows:
        for column, column_weight in columns:
            place = (row * width + column).view(count, 1, -1).expand(-1, channels, -1)
            weight = (row_weight * column_weight).to(pixels.dtype).view(count, 1, -1)
            result += weight * pixels.gather(2, place)
    return result.view_as(images)


def _neighbors(place: Tensor, side: int) -> list[tuple[Tensor, Tensor]]:
    """Return the four pixels around each real place on a line, reflected about the edges, with the kernel's weights."""
    found = []
    for offset in (-1, 0, 1, 2):
        pixel = place.floor() + offset
        s = (place - pixel).abs()
        weight = torch.where(s <= 1, (1.5 * s - 2.5) * s**2 + 1, ((-0.5 * s + 2.5) * s - 4) * s + 2)
        around = pixel.long() % (2 * side)
        found.append((torch.minimum(around, 2 * side - 1 - around), weight))
    return found


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    """Return the maps ``[N, 2, 2]`` that scale the axes."""
    return torch.diag_embed(torch.stack([x, y], dim=-1))


def _rotation(angle: Tensor) -> Tensor:
    """Return the maps ``[N, 2, 2]`` that turn from the right downwards."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], dim=-1), torch.stack([sin, cos], dim=-1)], dim=-2)
