"""A folder of pictures."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import BeforeValidator, Field
from torch import Tensor

from diffkit.data.base import DataInfo, Dataset, Images
from diffkit.data.decode import SUFFIXES, UnreadablePictureError, check_picture, decode
from diffkit.data.memory import InMemory
from diffkit.data.progress import progress_bar
from diffkit.data.unchanged import CHANGED, Stamp, stamp_of
from diffkit.errors import DataError
from diffkit.spec import FilePath

GIB = 2**30
LARGEST_SIDE = 8192
SHOWN = 10
"""How many unreadable files a message names."""

R = TypeVar("R")


def _height_and_width(value: Any) -> Any:
    sides = (value, value) if isinstance(value, int) else value
    is_pair = isinstance(sides, list | tuple) and len(sides) == 2
    if not is_pair or any(type(side) is not int or not 1 <= side <= LARGEST_SIDE for side in sides):
        raise ValueError(f"a side such as 64, or [height, width] such as [48, 64], each of 1..{LARGEST_SIDE}")
    return tuple(sides)


_Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
Size = Annotated[
    tuple[int, int],
    BeforeValidator(_height_and_width, json_schema_input_type=_Side | tuple[_Side, _Side]),
]


COLOR = "white|black|#[0-9a-fA-F]{6}"


def _color(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch(COLOR, value):
        raise ValueError('should be "white", "black", or a color such as "#808080"')
    return value


Color = Annotated[str, BeforeValidator(_color, json_schema_input_type=Annotated[str, Field(pattern=f"^({COLOR})$")])]


def _one_or_three(value: Any) -> Any:
    if type(value) is not int or value not in (1, 3):  # true is 1 for Python
        raise ValueError("1 for grey, or 3 for RGB")
    return value


class ImageFolder(Dataset):
    """Pictures in a folder, or in one folder a class: PNG, JPEG, WebP, BMP, GIF (the first frame) and TIFF.

    Each is turned upright as its EXIF data says, laid on the background where it is transparent, scaled with an
    antialiasing bicubic filter until it just covers the wanted size, and cropped in the middle. Grey, palette,
    CMYK and 16-bit pictures are converted; color profiles are not applied. Files are taken in the order of their
    names, classes too. Hidden files and folders, and files with other endings, are passed over.
    """

    kind: Literal["image_folder"] = "image_folder"
    root: FilePath
    """The folder. Pictures lie in it, or in one folder a class, in folders below that too."""
    size: Size
    """Height and width of the images: one number for squares, or [height, width]."""
    channels: Annotated[Literal[1, 3], BeforeValidator(_one_or_three, json_schema_input_type=Literal[1, 3])] = 3
    """1 for grey, 3 for RGB."""
    background: Color = "white"
    """Color behind transparent pixels: white, black, or #rrggbb."""
    labels: bool = True
    """Take folders as classes, if there are folders. Without it, all pictures below the root are one set."""
    memory_limit: float = Field(4.0, ge=0)
    """GiB of memory that the decoded images may take. If they need more, they are decoded each time they are
    drawn; the result is the same."""

    @classmethod
    def example_settings(cls) -> dict[str, Any]:
        """Return settings for a folder that need not be there."""
        return {"root": "images", "size": 32}

    def info(self) -> DataInfo:
        """Return the sizes, which are settings, and the classes, which are folders.

        Raises:
            DataError: If there is no such folder, or no pictures are in it, or in one of the classes.
        """
        classes, _, _ = self._list()
        return DataInfo(self.channels, *self.size, classes)

    def open(self) -> Images:
        """Decode all pictures, if they fit into memory; else look at all their headers.

        Raises:
            DataError: If pictures are missing or unreadable; names them.
        """
        _, files, labels = self._list()
        images = DecodedImages(self, files, labels)
        bytes_needed = len(files) * self.channels * self.size[0] * self.size[1]
        with warnings.catch_warnings():  # of many pixels: what is too large is refused
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if bytes_needed > self.memory_limit * GIB:
                images.check()
                return images
            return images.in_memory()

    def _list(self) -> tuple[tuple[str, ...], list[Path], Tensor | None]:
        """Return the classes, all files, and their labels."""
        if not self.root.is_dir():
            what = "not a folder" if self.root.exists() else "no such folder"
            raise DataError(f"{self.root}: {what}: data.root names a folder of pictures")
        try:
            return self._listed()
        except OSError as error:
            raise DataError(f"{error.filename or self.root}: cannot be read: {error.strerror or error}") from None

    def _listed(self) -> tuple[tuple[str, ...], list[Path], Tensor | None]:
        if not self.labels:
            return (), self._some(list(_pictures_below(self.root))), None
        loose = [path for path in _visible(self.root) if _is_picture(path)]
        folders = [path for path in _visible(self.root) if path.is_dir()]
        by_class = [list(_pictures_below(folder)) for folder in folders]
        if loose and any(by_class):
            raise DataError(
                f"{self.root}: holds both pictures, such as {loose[0].name}, and folders with pictures, such as "
                f"{next(folder.name for folder, files in zip(folders, by_class, strict=True) if files)}: "
                "put all pictures into one folder a class, or set data.labels = false to take all without a class"
            )
        if not any(by_class):
            return (), self._some(loose), None
        for folder, files in zip(folders, by_class, strict=True):
            if not files:
                raise DataError(f"{folder}: a class without a picture: remove the folder, or put pictures into it")
        labels = torch.repeat_interleave(torch.tensor([len(files) for files in by_class]))
        return tuple(folder.name for folder in folders), [file for files in by_class for file in files], labels

    def _some(self, files: list[Path]) -> list[Path]:
        if not files:
            raise DataError(f"{self.root}: no pictures in it ({', '.join(sorted(SUFFIXES))})")
        return files


class DecodedImages(Images):
    """Pictures that are decoded by several threads when they are asked for.

    Args:
        settings: How to decode them.
        files: The files.
        labels: int64 ``[N]``, or None.
    """

    def __init__(self, settings: ImageFolder, files: Sequence[Path], labels: Tensor | None) -> None:
        self._settings, self._files, self._labels = settings, files, labels
        self._stamps: NDArray[np.int64] | None = None
        self._pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1), "diffkit-decode")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._files)

    def pixels(self, indices: Tensor) -> Tensor:
        """Return images as uint8 ``[n, C, H, W]``.

        Raises:
            DataError: If some cannot be decoded, or were changed since `check`; names them.
        """
        return self._decode(indices.tolist(), lambda count: None)

    def labels(self, indices: Tensor) -> Tensor | None:
        """Return labels as int64 ``[n]``; None without labels."""
        return None if self._labels is None else self._labels[indices]

    def check(self) -> None:
        """Look at the headers of all pictures, and note when each was written.

        Raises:
            DataError: If some are damaged or too large; names them.
        """

        def one(number: int) -> Stamp:
            check_picture(self._files[number])
            return stamp_of(self._files[number].stat())

        stamps = np.empty((len(self._files), 2), dtype=np.int64)
        with progress_bar("checking pictures", len(self._files)) as advance:
            for place, stamp in self._each(one, range(len(self._files)), advance):
                stamps[place] = stamp
        self._stamps = stamps

    def in_memory(self) -> InMemory:
        """Decode all pictures.

        Raises:
            DataError: If some cannot be decoded; names them.
        """
        with progress_bar("decoding pictures", len(self._files)) as advance:
            return InMemory(self._decode(range(len(self._files)), advance), self._labels)

    def _decode(self, numbers: Sequence[int], advance: Callable[[int], None]) -> Tensor:
        how = self._settings
        out = np.empty((len(numbers), how.channels, *how.size), dtype=np.uint8)

        def one(number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
            file = self._files[number]
            pixels = decode(file, how.size, how.channels, how.background)
            if self._stamps is not None and tuple(self._stamps[number]) != stamp_of(file.stat()):
                raise UnreadablePictureError(CHANGED)
            return pixels

        for place, pixels in self._each(one, numbers, advance):
            out[place] = pixels
        return torch.from_numpy(out)

    def _each(
        self, work: Callable[[int], R], numbers: Sequence[int], advance: Callable[[int], None]
    ) -> Iterator[tuple[int, R]]:
        """Yield the results of all pictures with their places; then raise an error that names the unreadable ones."""

        def attempt(number: int) -> R | UnreadablePictureError:
            try:
                return work(number)
            except UnreadablePictureError as error:
                return error
            except OSError as error:  # gone between two looks at it
                return UnreadablePictureError(error.strerror or str(error))

        failures = []
        for start in range(0, len(numbers), CHUNK):  # or all results would wait in memory
            for place, result in enumerate(self._pool.map(attempt, numbers[start : start + CHUNK]), start):
                advance(1)
                if isinstance(result, UnreadablePictureError):
                    failures.append((self._files[numbers[place]], result))
                else:
                    yield place, result
        if failures:
            raise self._unreadable(failures, len(numbers))

    def _unreadable(self, failures: Sequence[tuple[Path, UnreadablePictureError]], count: int) -> DataError:
        root = self._settings.root
        lines = [f"  {file.relative_to(root)}: {reason}" for file, reason in failures[:SHOWN]]
        if len(failures) > SHOWN:
            lines.append(f"  and {len(failures) - SHOWN} more")
        head = f"{root}: {len(failures)} of {count} pictures cannot be read: mend or remove them"
        return DataError("\n".join([head, *lines]))


CHUNK = 256
"""Pictures that are handed to the threads at once."""


def _visible(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _pictures_below(folder: Path) -> Iterator[Path]:
    """Yield the pictures in a folder and in the folders in it, in the order of names.

    Links are followed, but a folder that several lead to is visited once: else a few of them would lead to each other
    in more ways than can be walked.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [(folder, False)]
    while waiting:
        path, is_picture = waiting.pop()
        if is_picture:
            yield path
        elif path.is_dir() and (found := (path.stat().st_dev, path.stat().st_ino)) not in seen:
            seen.add(found)
            waiting += [(inner, _is_picture(inner)) for inner in reversed(_visible(path))]
