"""Images that were sampled before, by diffkit or by others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from diffkit.data.base import DataInfo
from diffkit.data.decode import SUFFIXES, UnreadablePictureError, decode_as_is
from diffkit.data.numpy_files import has_member, read_header, read_member, read_rows
from diffkit.data.progress import progress_bar
from diffkit.errors import UserError
from diffkit.evaluating.reference import Part
from diffkit.evaluation.features import AT_ONCE


def read_images(path: Path, data: DataInfo) -> Iterator[Part]:
    """Read images that were sampled, by diffkit or by others.

    Args:
        path: A folder of pictures, or with an `images.npz`, as `diffkit sample` writes it; or an npz file with ``images
            [N, H, W, C]`` in uint8, and ``labels [N]`` where known. A folder's `grid.png` is passed over.
        data: The data set that they are for.

    Raises:
        UserError: If there are none, or one cannot be read or is of another size.
    """
    archive = path / "images.npz" if path.is_dir() else path
    if archive.is_file():
        yield from _read_npz(archive)
        return
    files = sorted(_pictures(path))
    if not files:
        raise UserError(f"images = {path}: there are no pictures, and no images.npz")
    with progress_bar("reading", total=len(files)) as advance:
        for start in range(0, len(files), AT_ONCE):
            part = [_read_picture(file, data) for file in files[start : start + AT_ONCE]]
            yield torch.from_numpy(np.stack(part)), None
            advance(len(part))


def _pictures(folder: Path) -> Sequence[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return [file for file in found if file.suffix.lower() in SUFFIXES and file.name != "grid.png"]


def _read_picture(file: Path, data: DataInfo) -> NDArray[np.uint8]:
    try:
        return decode_as_is(file, (data.height, data.width), data.channels)
    except UnreadablePictureError as error:
        wanted = f"{data.height}x{data.width} (height x width), {'grey' if data.channels == 1 else 'in color'}"
        raise UserError(f"images: {file}: {error}, and the data set's images are {wanted}") from None


def _read_npz(file: Path) -> Iterator[Part]:
    try:
        shape, dtype = read_header(file, "images")
        labels = read_member(file, "labels") if has_member(file, "labels") else None
    except Exception as error:  # the parsers of archives and headers raise anything at all on damaged ones
        raise _no_images(file, error) from None
    if dtype != np.uint8 or len(shape) != 4:
        raise UserError(f"images = {file}: images are uint8 [N, H, W, C], not {dtype} {list(shape)}")
    if labels is not None and (labels.shape != shape[:1] or labels.dtype.kind not in "iu"):
        raise UserError(f"images = {file}: labels are whole numbers [N], not {labels.dtype} {list(labels.shape)}")
    if shape[0] == 0:
        raise UserError(f"images = {file}: there are no images in it")
    start = 0
    try:
        for images in read_rows(file, "images", AT_ONCE):
            stop = start + len(images)
            named = None if labels is None else torch.from_numpy(labels[start:stop].astype(np.int64))
            yield torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), named
            start = stop
    except Exception as error:
        raise _no_images(file, error) from None


def _no_images(file: Path, error: Exception) -> UserError:
    return UserError(f"images = {file}: not an npz file with 'images': {error}")
