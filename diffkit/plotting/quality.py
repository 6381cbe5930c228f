"""Pictures of how good images are, against what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter, NullFormatter

from diffkit.plotting.canvas import house_style, legend_below, line_style, new_figure


@dataclass(frozen=True)
class Point:
    """One way of sampling.

    Attributes:
        cost: How often a network sees each image.
        value: What was found.
        error: Its standard error; None if unknown.
    """

    cost: int
    value: float
    error: float | None = None


Lines = Mapping[str, Sequence[Point]]
"""The points of each line, by its name."""


def draw_quality(scores: Mapping[str, Lines], recommended: Mapping[str, Point], title: str) -> Figure:
    """Draw scores against the cost of sampling, a panel for each score, with bars of one standard error.

    Args:
        scores: The lines of each score, by its name. All have the same lines.
        recommended: The point of each score that gets a ring, if any.
        title: What stands above.
    """
    with house_style():
        figure = new_figure(5.5 * len(scores), 4.4)
        figure.suptitle(title)
        row = figure.subplots(1, len(scores), squeeze=False)[0]
        for axes, (name, lines) in zip(row, scores.items(), strict=True):
            _panel(axes, name, lines, recommended.get(name))
        legend_below(figure, row[0], columns=2 * len(scores))
        return figure


def _panel(axes: Axes, name: str, lines: Lines, recommended: Point | None) -> None:
    for number, (label, points) in enumerate(lines.items()):
        ordered = sorted(points, key=lambda point: point.cost)
        axes.errorbar(
            [point.cost for point in ordered],
            [point.value for point in ordered],
            [point.error or 0.0 for point in ordered],
            label=label,
            marker="o",
            ms=3.5,
            capsize=2,
            **line_style(number),
        )
    if recommended is not None:
        axes.plot(recommended.cost, recommended.value, "o", mfc="none", mec="black", ms=11, label="recommended")
    values = [point.value for points in lines.values() for point in points]
    costs = sorted({point.cost for points in lines.values() for point in points})
    ticks = costs[:1]
    for cost in costs[1:]:
        if cost >= 1.25 * ticks[-1]:  # nearer ones would stand in each other
            ticks.append(cost)
    axes.set(title=name, xlabel="network evaluations an image", xscale="log")
    axes.set_xticks(ticks, labels=[str(cost) for cost in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    if min(values) > 0 and max(values) > 10 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
