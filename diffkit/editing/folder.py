"""Editing to files: numbered images, a grid of what went in and came out, and a note of how they were made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffkit.data.progress import progress_bar
from diffkit.diffusion.edit.inpaint import walk
from diffkit.editing.editor import Editor
from diffkit.editing.pictures import read_mask, read_pictures
from diffkit.images import grid, save_png
from diffkit.sampling import IN_GRID, new_folder, write_about
from diffkit.storage.files import write_tensors


@dataclass(frozen=True)
class Request:
    """What all edits share. Each returns the files it wrote, the grid last.

    Attributes:
        editor: The model and how it is sampled.
        source: Where the model was loaded from; the run folder decides where `out` is by default.
        out: The folder, which must be new or empty; ``RUN/samples/edit-N`` by default.
        size: Height and width of the pictures, where they are not those of the data.
        resize: Take pictures that don't fit too: scaled, cropped and converted.
    """

    editor: Editor
    source: Path
    out: Path | None = None
    size: tuple[int, int] | None = None
    resize: bool = False

    def inpaint(
        self, files: Sequence[Path], mask: Path, *, count: int = 1, jump: int | None = None, repetitions: int = 10
    ) -> list[Path]:
        """Fill what is white in a mask, in each picture `count` times.

        Raises:
            UserError: If a picture, the mask or the folder doesn't fit.
        """
        images = self._read(files)
        size = images.shape[-2], images.shape[-1]
        hole = read_mask(mask, size, resize=self.resize)
        steps = sum(1 for start, end in walk(self.editor.settings.steps, jump, repetitions) if start < end)
        folder = self._new_folder()
        with progress_bar("inpainting", len(images) * count * steps, of="calls") as advance:
            editor = self.editor.telling(advance)
            done = editor.inpaint(images, hole, count=count, jump=jump, repetitions=repetitions)
        about = {"images": _texts(files), "mask": str(mask), "count": count, "seed": self.editor.seed}
        about |= {"jump": jump, "repetitions": repetitions}
        return self._write(folder, "inpaint", done, about, beside=images.masked_fill(hole, 128))

    def vary(self, files: Sequence[Path], strength: float, *, count: int = 1) -> list[Path]:
        """Make `count` images like each picture.

        Raises:
            UserError: If a picture, the strength or the folder doesn't fit.
        """
        images = self._read(files)
        steps = self.editor.settings.sampler.calls(self.editor.last_part(strength))
        folder = self._new_folder()
        with progress_bar("varying", len(images) * count * steps, of="calls") as advance:
            done = self.editor.telling(advance).vary(images, strength, count=count)
        about = {"images": _texts(files), "strength": strength, "count": count, "seed": self.editor.seed}
        return self._write(folder, "vary", done, about, beside=images)

    def interpolate_seeds(self, first: int, last: int, *, count: int) -> list[Path]:
        """Make `count` images from the first one of a seed to the first one of another.

        Raises:
            UserError: If the size or the folder doesn't fit.
        """
        self.editor.pipeline.shape(self.size)
        folder = self._new_folder()
        with progress_bar("interpolating", count * self._calls, of="calls") as advance:
            done = self.editor.telling(advance).interpolate_seeds(first, last, count, self.size)
        return self._write(folder, "interpolate", done, {"seeds": [first, last]})

    def interpolate_images(self, first: Path, last: Path, *, count: int) -> list[Path]:
        """Make `count` images from one picture to another; in the grid, the pictures are at the ends.

        Raises:
            UserError: If a picture, the sampler or the folder doesn't fit.
        """
        images = self._read([first, last])
        self.editor.check_invertible()
        folder = self._new_folder()
        with progress_bar("interpolating", count * self._calls + 2 * self.editor.settings.steps, of="calls") as advance:
            done = self.editor.telling(advance).interpolate_images(images, count)
        row = torch.cat([images[:1], done, images[1:]])
        return self._write(folder, "interpolate", done, {"images": _texts([first, last])}, row=row)

    def invert(self, files: Sequence[Path]) -> tuple[list[Path], list[float]]:
        """Find the noises that lead to pictures: ``noise.safetensors``, and what they lead to.

        Returns:
            The files, and how far each reconstruction is from its picture, in grey values of 255 (root mean square).

        Raises:
            UserError: If a picture, the sampler or the folder doesn't fit.
        """
        images = self._read(files)
        self.editor.check_invertible()
        folder = self._new_folder()
        with progress_bar("inverting", len(images) * (self.editor.settings.steps + self._calls), of="calls") as advance:
            done = self.editor.telling(advance).invert(images)
        write_tensors({"noise": done.noise}, folder / "noise.safetensors")
        errors = [round(error, 4) for error in done.errors.tolist()]
        about = {"images": _texts(files), "errors": errors}
        written = self._write(folder, "invert", done.images, about, beside=images)
        return [folder / "noise.safetensors", *written], errors

    @property
    def _calls(self) -> int:
        return self.editor.settings.sampler.calls(self.editor.levels)

    def _read(self, files: Sequence[Path]) -> Tensor:
        return read_pictures(files, self.editor.pipeline.shape(self.size), resize=self.resize)

    def _new_folder(self) -> Path:
        return new_folder(self.source, self.out, "edit")

    def _write(
        self,
        folder: Path,
        task: str,
        images: Tensor,
        about: dict[str, Any],
        *,
        beside: Tensor | None = None,
        row: Tensor | None = None,
    ) -> list[Path]:
        """Write the images, a grid and a note.

        Args:
            folder: An empty folder.
            task: What was done.
            images: The results.
            about: How it was done.
            beside: What each image was made of, to be shown to the left of its results.
            row: What the grid shows where that is not the results: one row.
        """
        digits = max(5, len(str(len(images) - 1)))
        files = [folder / f"{number:0{digits}d}.png" for number in range(len(images))]
        for image, file in zip(images, files, strict=True):
            save_png(image, file)
        if beside is not None:
            shown, columns = _side_by_side(beside, images)
        else:
            shown = images if row is None else row
            columns = len(shown)
        picture = grid(shown, columns=columns)
        sides = picture.shape[-2:]
        files.append(folder / "grid.png")
        save_png(picture, files[-1], smallest_side=600 * min(sides) // max(sides))
        settings = self.editor.settings.model_copy(update={"count": len(images)})
        editor, file = self.editor, folder / "edit.json"
        write_about(file, self.source, editor.pipeline, settings, task=task, label=editor.label, **about)
        return files


def _side_by_side(inputs: Tensor, results: Tensor) -> tuple[Tensor, int]:
    """Put each input before its results. Returns the images, and how many of them make a row."""
    each = results.view(len(inputs), -1, *results.shape[1:])
    groups = torch.cat([inputs[:, None], each], dim=1)[: max(1, IN_GRID // (1 + each.shape[1]))]
    in_a_row = max(1, round(math.sqrt(len(groups) / groups.shape[1])))
    return groups.flatten(0, 1), in_a_row * groups.shape[1]


def _texts(files: Sequence[Path]) -> list[str]:
    return [str(file) for file in files]
