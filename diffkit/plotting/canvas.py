"""Figures that look the same everywhere, and their files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from PIL import Image, ImageColor

from diffkit.errors import UserError

try:
    import matplotlib.style
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as error:
    raise UserError(f"pictures need matplotlib ({error}): pip install 'diffkit[plot]'") from None

Format = Literal["png", "svg"]

COLORS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours that are told apart with any kind of colour vision (Okabe & Ito 2008), without their yellow."""
DASHES = ("-", (0, (5, 2)), (0, (5, 1.5, 1, 1.5)), (0, (1.2, 1.2)))
"""So that a line which lies on another one leaves that visible. Four dashes and seven colours make 28 lines."""

_SHADES = 20
"""So many steps are from each colour to white: black's are the greys, the others' are for lines with smooth edges."""

_STYLE: dict[str, Any] = {
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "diffkit",  # else every SVG has other ids
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw as diffkit does, whatever the user's own settings of matplotlib are."""
    with matplotlib.style.context(["default", _STYLE]):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches, which has nothing to do with any window."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def line_style(number: int) -> dict[str, Any]:
    """Return colour and dashes of the line of a number."""
    return {"color": COLORS[number % len(COLORS)], "linestyle": DASHES[number % len(DASHES)]}


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """Name all lines of an axes below the figure, where they cover nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))


def to_bytes(figure: Figure, format: Format) -> bytes:
    """Return the content of a figure's file: the same bytes whenever the same thing is drawn.

    A PNG has a palette, which makes it several times smaller than one of full colours.
    """
    content = io.BytesIO()
    metadata = {"Software": None} if format == "png" else {"Date": None, "Creator": None}
    with house_style():
        figure.savefig(content, format=format, metadata=metadata)
    if format == "svg":
        return content.getvalue()
    small = io.BytesIO()
    with Image.open(content) as picture:
        few = picture.convert("RGB").quantize(palette=_palette(), dither=Image.Dither.NONE)
        few.save(small, format="png", optimize=True)
    return small.getvalue()


def _palette() -> Image.Image:
    """Return a picture whose palette is white, and every colour of lines in all its shades."""
    shades = [255, 255, 255]
    for color in COLORS:
        lightest = 1 if color == "#000000" else 3  # Pillow takes lighter colours for white, or for a grey
        for step in range(lightest, _SHADES + 1):
            shades += [round(255 + (value - 255) * step / _SHADES) for value in ImageColor.getrgb(color)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(shades)
    return palette
