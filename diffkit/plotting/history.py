"""Pictures of how a training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from diffkit.plotting.canvas import house_style, line_style, new_figure

PANELS = {
    "loss": {"loss": "all times"},
    "loss by quarters of the way, from the least noise": {f"loss_q{n}": f"quarter {n}" for n in (1, 2, 3, 4)},
    "gradient norm": {"grad_norm": ""},
    "update and distance of the average, over the weights": {"update_ratio": "update", "ema_distance": "average"},
    "learning rate": {"lr": ""},
    "images per second": {"images_per_second": ""},
}
"""The panels by their titles: the numbers of the log that each shows, and what their lines are called."""

MOST_POINTS = 1_000
"""Longer lines are drawn as the means of neighbours."""


def draw_history(events: Sequence[Mapping[str, float]], title: str) -> Figure:
    """Draw the numbers of a training's log over its steps. Axes are logarithmic where a line spans more than a decade.

    Args:
        events: The log events, each with its ``step``. A number may be missing in any of them.
        title: What stands above.
    """
    with house_style():
        figure = new_figure(11.0, 9.0)
        figure.suptitle(title)
        for axes, (name, lines) in zip(figure.subplots(3, 2).flat, PANELS.items(), strict=True):
            _panel(axes, name, events, lines)
        return figure


def _panel(axes: Axes, title: str, events: Sequence[Mapping[str, float]], lines: Mapping[str, str]) -> None:
    for number, (name, label) in enumerate(lines.items()):
        found = np.array([(event["step"], event[name]) for event in events if name in event]).reshape(-1, 2)
        if len(found):
            steps, values = _thinned(found).T
            axes.plot(steps, values, label=label, **line_style(number))
            if values.min() > 0 and values.max() > 10 * values.min():
                axes.set_yscale("log")
    axes.set(title=title, xlabel="step")
    if len(lines) > 1 and axes.lines:
        axes.legend()


def _thinned(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return means of so many neighbours ``[N, 2]`` that few enough points are left."""
    return np.array([part.mean(axis=0) for part in np.array_split(points, min(len(points), MOST_POINTS))])
