"""``diffkit filmstrip``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffkit.errors import UserError
from diffkit_filmstrip.film import draw_strip, frames_folder, list_frames, pick, strip_file


def command(
    run: Annotated[Path | None, typer.Argument(help="Run folder; the newest run by default.")] = None,
    frames: Annotated[int, typer.Option(min=2, help="Largest number of frames; they are evenly spread.")] = 12,
    name: Annotated[str, typer.Option(help="Name of the strip, as in the callback's settings.")] = "filmstrip",
    out: Annotated[Path | None, typer.Option(help="PNG file; RUN/samples/NAME.png by default.")] = None,
) -> None:
    """Draw the filmstrip of a run again, with fewer frames, and print where it is."""
    if run is None:
        from diffkit.storage.runs import newest_run

        run = newest_run()
    typer.echo(redraw(run, name, frames, out))


def redraw(run: Path, name: str, most: int, out: Path | None = None) -> Path:
    """Draw a picture from a run's frames and return its file.

    Args:
        run: The run folder.
        name: The strip's name.
        most: Largest number of frames.
        out: The file; the run's own by default.

    Raises:
        UserError: If the run has no frames.
    """
    from diffkit.storage.files import write_atomically

    frames = list_frames(frames_folder(run, name))
    if not frames:
        raise UserError(
            f"{run}: no frames in {frames_folder(run, name)}: train with the callback 'filmstrip' (name = \"{name}\")"
        )
    file = out or strip_file(run, name)
    write_atomically(file, draw_strip(pick(frames, most)))
    return file
