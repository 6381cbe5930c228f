"""The callback."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image, PngImagePlugin
from pydantic import Field

from diffkit.callbacks.base import Callback, Run
from diffkit.diffusion.samplers.base import Sampler
from diffkit.errors import Problem, UserError
from diffkit.images import grid, to_picture
from diffkit.plugins.hookspecs import hookimpl
from diffkit.storage.files import delete_leftovers, write_atomically
from diffkit_filmstrip.film import draw_strip, frame_file, frames_folder, list_frames, strip_file

if TYPE_CHECKING:
    from diffkit.recipe.tables import Recipe


class Filmstrip(Callback):
    """Draws how the same noises turn into images as training goes on: one picture, with time running to the right.

    The first frame is that of the untrained network, the last one that of the last step. Each frame is kept
    as ``samples/NAME/step-N.png`` and the picture made from all of them is ``samples/NAME.png``. A run that is
    resumed goes on with the frames on disk, and forgets those of steps that it takes anew.
    """

    kind: Literal["filmstrip"] = "filmstrip"
    every: int = Field(500, ge=1)
    """Steps between two frames."""
    count: int = Field(8, ge=1, le=1000)
    """Number of images, one below the other; a class-conditional model draws its classes in turn."""
    seed: int = Field(0, ge=0)
    """Seed of the images' noise."""
    sampler: Sampler | None = None
    """The sampler; that of the recipe's `[sample]` table by default."""
    steps: int | None = Field(None, ge=1)
    """Number of sampling steps; that of the recipe's `[sample]` table by default."""
    name: str = Field("filmstrip", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")
    """Name of the picture; tells several strips of one run apart."""

    def problems(self, recipe: Recipe) -> list[Problem]:
        """Return that the process cannot be sampled in so many steps, or that two strips have one name."""
        problems = []
        reason = None if self.steps is None else recipe.sample.spacing.refuses(recipe.process, self.steps)
        if reason:
            problems.append(Problem("steps", reason, self.steps))
        strips = [callback for callback in recipe.callbacks if isinstance(callback, Filmstrip)]
        if sum(strip.name == self.name for strip in strips) > 1:
            problems.append(Problem("name", "several filmstrips have this name: give each its own", self.name))
        return problems

    @hookimpl
    def on_train_start(self, run: Run) -> None:
        """Forget the frames after the checkpoint that the run goes on from, and make the one that is due.

        Raises:
            UserError: If the frames on disk were made with other settings.
        """
        folder = frames_folder(run.folder, self.name)
        folder.mkdir(parents=True, exist_ok=True)
        delete_leftovers(folder)
        for step, file in list_frames(folder):
            if step > run.step:
                file.unlink()
            else:
                self._check(file)
        if self._is_due(run) and not frame_file(folder, run.step).exists():
            self._make_frame(run)

    @hookimpl
    def on_train_step(self, run: Run) -> None:
        """Make a frame, if it is time."""
        if self._is_due(run):
            self._make_frame(run)

    def _is_due(self, run: Run) -> bool:
        return run.step % self.every == 0 or run.step == run.total_steps

    def _make_frame(self, run: Run) -> None:
        settings = {"sampler": self.sampler, "steps": self.steps}
        images = run.sample(self.count, self.seed, **{k: v for k, v in settings.items() if v is not None})
        about = PngImagePlugin.PngInfo()
        about.add_text("filmstrip", self._settings())
        png = io.BytesIO()
        to_picture(grid(images, columns=1)).save(png, "PNG", pnginfo=about)
        folder = frames_folder(run.folder, self.name)
        write_atomically(frame_file(folder, run.step), png.getvalue())
        write_atomically(strip_file(run.folder, self.name), draw_strip(list_frames(folder)))

    def _settings(self) -> str:
        """Write down what the frames of one strip must have in common."""
        return self.model_dump_json(include={"count", "seed", "sampler", "steps"})

    def _check(self, file: Path) -> None:
        with Image.open(file) as frame:
            made_with = frame.info.get("filmstrip")
        if made_with != self._settings():
            raise UserError(
                f"{file}: the filmstrip goes on with other settings than it began with: it was {made_with}, and is "
                f"{self._settings()} now. Keep them, or give the callback another name"
            )
