"""All that is known of a training run, as one page of HTML."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from html import escape
from pathlib import Path

from diffkit.bounds import printable, read_bytes
from diffkit.data.decode import UnreadablePictureError, check_picture
from diffkit.errors import UserError
from diffkit.plotting.canvas import to_bytes
from diffkit.plotting.history import draw_history
from diffkit.recipe.load import read_text
from diffkit.storage.checkpoint import list_checkpoints
from diffkit.storage.overview import overview, read_log
from diffkit.storage.runs import CHECKPOINTS, METRICS, RECIPE, SAMPLES

MOST_GRIDS = 6
"""A report shows so many grids of samples: the first one, the last one, and some between."""

MOST_EVENTS = 20_000
"""Of a longer log, a part of the lines is drawn, evenly spread."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{name}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
td {{ padding: .1rem 1rem .1rem 0; vertical-align: top; }}
img {{ max-width: 100%; }}
figure {{ display: inline-block; margin: .5rem; }}
figure img {{ width: 20rem; image-rendering: pixelated; }}
pre {{ background: #f5f5f5; padding: 1rem; overflow: auto; }}
</style>
</head>
<body>
<h1>{name}</h1>
<table>
{about}
</table>
<h2>Training</h2>
{curves}
<h2>Samples</h2>
{grids}
<h2>Recipe</h2>
<pre>{recipe}</pre>
</body>
</html>
"""


def report(folder: Path) -> str:
    """Return a page on a run that needs no other file: state, curves, samples, checkpoints and recipe.

    Nothing of the run's files gets into the page but as text or as a picture: they may be a stranger's.

    Raises:
        UserError: If the folder holds no run, or pictures cannot be drawn.
    """
    if not (folder / RECIPE).exists():
        raise UserError(f"{folder}: holds no run: there is no {RECIPE} in it")
    name = folder.absolute().name
    return PAGE.format(
        name=_text(name),
        about="\n".join(f"<tr><td>{key}</td><td>{_text(value)}</td></tr>" for key, value in _about(folder).items()),
        curves=_curves(folder / METRICS, name),
        grids="\n".join(_grids(folder / SAMPLES)) or "<p>The callback sample_grid left none.</p>",
        recipe=_text(read_text(folder / RECIPE)),
    )


def _about(folder: Path) -> dict[str, str]:
    found = overview(folder)
    total = "?" if found.total_steps is None else f"{found.total_steps:,}"
    return {
        "folder": str(folder.absolute()),
        "state": found.state,
        "step": f"{found.step:,} of {total}",
        "last loss": "none" if found.loss is None else f"{found.loss:.4g}",
        "checkpoints": ", ".join(path.name for path in list_checkpoints(folder / CHECKPOINTS)) or "none",
    }


def _curves(log: Path, name: str) -> str:
    if not (events := _some_events(log)):
        return "<p>Nothing was logged yet.</p>"
    curves = _embedded(to_bytes(draw_history(events, name), "svg"), "svg+xml")
    return f'<img alt="the numbers of the log over the steps" src="{curves}">'


def _some_events(log: Path) -> list[dict[str, float]]:
    events: list[dict[str, float]] = []
    stride = 1
    with contextlib.suppress(OSError, ValueError):  # there is no log, or something else
        for number, event in enumerate(read_log(log)):
            if number % stride == 0:
                events.append(event)
            if len(events) > MOST_EVENTS:
                events, stride = events[::2], 2 * stride
    return events


def _grids(samples: Path) -> Iterator[str]:
    """Yield the grids that the callback `sample_grid` left, or some of them."""
    files = [file for file in sorted(samples.glob("step-*.png")) if _is_picture(file)]
    last = len(files) - 1
    for place in dict.fromkeys(round(last * n / (MOST_GRIDS - 1)) for n in range(MOST_GRIDS) if files):
        step, pixels = files[place].stem.removeprefix("step-").lstrip("0"), _embedded(read_bytes(files[place]), "png")
        yield f'<figure><img alt="" src="{pixels}"><figcaption>step {_text(step)}</figcaption></figure>'


def _is_picture(file: Path) -> bool:
    """Return whether a file is a picture and no link, which could lead to a file of somebody else."""
    try:
        check_picture(file)
        return not file.is_symlink() and bool(read_bytes(file))
    except (UnreadablePictureError, OSError, ValueError):
        return False


def _embedded(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _text(text: str) -> str:
    return escape(printable(text))
