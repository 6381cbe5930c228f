"""One picture file to the pixels of one size."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""The formats that are decoded, by their content and not by the file's name."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""Names of files, in any case, that are taken for pictures."""

LARGEST = 89_478_485
"""Number of pixels above which a picture is refused: it would take more than a quarter of a GiB."""


class Budget:
    """Pixels that all threads together may have decoded, in their own size, at one time.

    Args:
        pixels: How many; at least as many as the largest picture has.
    """

    def __init__(self, pixels: int) -> None:
        self._left, self._changed = pixels, threading.Condition()

    @contextlib.contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        """Take so many, once there are so many left, and give them back."""
        with self._changed:
            self._changed.wait_for(lambda: self._left >= pixels)
            self._left -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._left += pixels
                self._changed.notify_all()


IN_MEMORY = Budget(2 * LARGEST)
"""A pixel takes up to 16 bytes on its way, so that all threads take up to 3 GB, whatever the pictures are."""


class UnreadablePictureError(Exception):
    """A picture that cannot be decoded; the text says why."""


def check_picture(file: Path) -> None:
    """Read a picture's header.

    Raises:
        UnreadablePictureError: If it is missing, of no known format, or too large.
    """
    try:
        with file.open("rb") as stream, Image.open(stream, formats=FORMATS) as picture:
            _check_size(picture)
    except Exception as error:
        raise _unreadable(error) from None


def decode(file: Path, size: tuple[int, int], channels: int, background: str) -> NDArray[np.uint8]:
    """Decode a picture, the first one of an animation, turned upright as its EXIF data says.

    Args:
        file: The file.
        size: Height and width that are wanted.
        channels: 1 for grey, 3 for RGB.
        background: Color behind transparent pixels.

    Returns:
        Pixels ``[C, H, W]``.

    Raises:
        UnreadablePictureError: If it is missing, damaged, of no known format, or too large.
    """
    with _upright(file) as picture:
        opaque = _on_background(picture, background).convert("L" if channels == 1 else "RGB")
    pixels = np.array(fit(opaque, size))
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def decode_as_is(file: Path, size: tuple[int, int], channels: int) -> NDArray[np.uint8]:
    """Decode a picture that is what is wanted already, so that no pixel of it is changed.

    Args:
        file: The file.
        size: Height and width that are wanted.
        channels: 1 for grey, 3 for RGB. A grey picture is RGB too.

    Returns:
        Pixels ``[C, H, W]``.

    Raises:
        UnreadablePictureError: If it cannot be decoded, is of another size, has colors where grey is wanted, or is
            transparent somewhere.
    """
    with _upright(file) as picture:
        if (picture.height, picture.width) != size:
            raise UnreadablePictureError(f"{picture.height}x{picture.width} pixels")
        pixels = np.ascontiguousarray(np.array(picture.convert("RGBA")).transpose(2, 0, 1))
    if (pixels[3] < 255).any():
        raise UnreadablePictureError("transparent in some places")
    if channels == 1 and not (pixels[:1] == pixels[1:3]).all():
        raise UnreadablePictureError("in color")
    return pixels[:channels]


@contextlib.contextmanager
def _upright(file: Path) -> Iterator[Image.Image]:
    """Open a picture and turn it upright; whatever goes wrong while the block runs means that it is unreadable."""
    try:  # of a stream, since Pillow maps some TIFF files that it opens by name, and then turns them wrongly
        with file.open("rb") as stream, Image.open(stream, formats=FORMATS) as picture:
            _check_size(picture)
            with IN_MEMORY.of(picture.width * picture.height):
                yield ImageOps.exif_transpose(_in_8_bits(picture))
    except Exception as error:  # Pillow's parsers raise anything at all on damaged files
        raise _unreadable(error) from None


def fit(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Cut the largest part of the wanted proportions out of the middle and scale it.

    That is: scale until height and width are no smaller than wanted and one of them is equal, then crop the
    rest off on both sides alike, all in one resampling (antialiased bicubic). A picture of the right size stays
    as it is.
    """
    height, width = size
    if picture.size == (width, height):
        return picture
    scale = min(picture.width / width, picture.height / height)
    left, top = (picture.width - width * scale) / 2, (picture.height - height * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    return picture.resize((width, height), Image.Resampling.BICUBIC, box=box)


def _check_size(picture: Image.Image) -> None:
    if picture.width * picture.height > LARGEST:
        raise UnreadablePictureError(f"{picture.width}×{picture.height} pixels, more than {LARGEST:,}")


def _in_8_bits(picture: Image.Image) -> Image.Image:
    """Scale a grey picture of 16 (or 12) bits a pixel to 8; Pillow itself would clip it."""
    if picture.mode in ("I", "F"):
        raise UnreadablePictureError(
            "pixels of 32 bits or with a sign have no stated range: save them with 8 or 16 bits"
        )
    if not picture.mode.startswith("I;16"):
        return picture
    tags = getattr(picture, "tag_v2", {})
    largest = 2 ** tags.get(BITSPERSAMPLE, (16,))[0] - 1
    values = np.asarray(picture).astype(np.uint32)
    grey = ((values * 255 + largest // 2) // largest).astype(np.uint8)
    if tags.get(PHOTOMETRIC_INTERPRETATION) == 0:  # 0 is white
        grey = 255 - grey
    scaled = Image.fromarray(grey)
    transparent = picture.info.get("transparency")
    if transparent is not None:
        scaled.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    scaled.info["exif"] = picture.getexif().tobytes()
    return scaled


def _on_background(picture: Image.Image, background: str) -> Image.Image:
    if not picture.has_transparency_data:
        return picture
    rgba = picture.convert("RGBA")
    ground = Image.new("RGBA", rgba.size, (*ImageColor.getrgb(background)[:3], 255))
    return Image.alpha_composite(ground, rgba)


def _unreadable(error: Exception) -> UnreadablePictureError:
    if isinstance(error, UnreadablePictureError):
        return error
    if isinstance(error, Image.DecompressionBombError):
        return UnreadablePictureError(f"more than {LARGEST:,} pixels")
    if isinstance(error, UnidentifiedImageError):
        return UnreadablePictureError(f"not a picture of a known format ({', '.join(FORMATS)})")
    if isinstance(error, OSError) and error.strerror:
        return UnreadablePictureError(error.strerror)
    return UnreadablePictureError(f"damaged ({str(error) or type(error).__name__})")
