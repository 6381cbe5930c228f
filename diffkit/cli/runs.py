"""``diffkit runs``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffkit.cli.options import AsJson

if TYPE_CHECKING:
    from diffkit.storage.overview import Overview


def command(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where the runs lie.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List training runs: state, step, loss, speed, time left and last checkpoint, the newest run last."""
    from diffkit.cli.common import in_columns
    from diffkit.errors import UserError
    from diffkit.storage.overview import overviews

    found = overviews(folder)
    if as_json:
        print(json.dumps([one.to_json() for one in found], indent=2))
        return
    if not found:
        raise UserError(f"no runs in {folder.absolute()}: train one with: diffkit train quickstart")
    print(in_columns([HEADINGS, *map(_row, found)]))


HEADINGS = ("run", "state", "step", "loss", "images/s", "left", "last checkpoint")


def _row(one: Overview) -> tuple[str, ...]:
    return (
        one.folder.name,
        one.state,
        f"{one.step:,} of {one.total_steps:,}" if one.total_steps is not None else f"{one.step:,}",
        "" if one.loss is None else f"{one.loss:.4g}",
        "" if one.images_per_second is None else f"{one.images_per_second:.4g}",
        "" if one.seconds_left is None else _duration(one.seconds_left),
        "none" if one.checkpoint is None else one.checkpoint.name,
    )


def _duration(seconds: float) -> str:
    """Return a duration in hours and minutes, or in seconds where it is short."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{rest} s"
