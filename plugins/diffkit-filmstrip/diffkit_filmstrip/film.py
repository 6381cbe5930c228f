"""The frames of a filmstrip on disk, and the picture made from them. Needs no torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

SMALLEST_FRAME = 64
"""The picture's pixels are enlarged by a whole factor until a frame is about this wide."""

Frame = tuple[int, Path]
"""A frame's step and its file."""


def frames_folder(run: Path, name: str) -> Path:
    """Return where a run keeps the frames of a strip."""
    return run / "samples" / name


def strip_file(run: Path, name: str) -> Path:
    """Return where a run keeps the picture of a strip."""
    return run / "samples" / f"{name}.png"


def frame_file(folder: Path, step: int) -> Path:
    """Return the file of a step's frame."""
    return folder / f"step-{step:08d}.png"


def list_frames(folder: Path) -> list[Frame]:
    """Return the frames of a folder, in the order of their steps."""
    frames = [(file.stem.removeprefix("step-"), file) for file in folder.glob("step-*.png")]
    return sorted((int(step), file) for step, file in frames if step.isdecimal())


def pick(frames: Sequence[Frame], most: int) -> list[Frame]:
    """Return at most so many of the frames, evenly spread, the first and the last among them.

    Args:
        frames: The frames.
        most: How many, at least 2.
    """
    if len(frames) <= most:
        return list(frames)
    return [frames[round(i * (len(frames) - 1) / (most - 1))] for i in range(most)]


def draw_strip(frames: Sequence[Frame]) -> bytes:
    """Put frames of one size side by side, their borders of one pixel shared; return the content of a PNG file."""
    pictures = [Image.open(file) for _, file in frames]
    width, height = pictures[0].size
    strip = Image.new(pictures[0].mode, (len(pictures) * (width - 1) + 1, height))
    for i, picture in enumerate(pictures):
        strip.paste(picture, (i * (width - 1), 0))
        picture.close()
    factor = max(1, SMALLEST_FRAME // (width - 2))
    png = io.BytesIO()
    strip.resize((strip.width * factor, strip.height * factor), Image.Resampling.NEAREST).save(png, "PNG")
    return png.getvalue()
