"""Single pictures. Each draws one thing of several named recipes into one axes, a line for each."""

from __future__ import annotations

import math
from collections.abc import Mapping

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from diffkit.diffusion.process import DiscreteProcess, Level, Process, half_log_snr
from diffkit.plotting.canvas import COLORS, line_style
from diffkit.plotting.walks import Mixture, walk
from diffkit.random import torch_generator
from diffkit.recipe.tables import Recipe

Recipes = Mapping[str, Recipe]

_POINTS = 1000
_DRAWS = 400_000


def alpha_bar(axes: Axes, recipes: Recipes) -> None:
    """Draw the part of the signal: alpha-bar, where the process is variance-preserving."""
    for number, (name, recipe) in enumerate(recipes.items()):
        parts, times = _way(recipe.process)
        axes.plot(parts, torch.sigmoid(recipe.process.log_snr(times)), label=name, **line_style(number))
    axes.set(title="signal: ᾱ = alpha² / (alpha² + sigma²)", ylim=(-0.03, 1.03))
    _mark_way(axes, recipes)


def log_snr(axes: Axes, recipes: Recipes) -> None:
    """Draw the log of the signal-to-noise ratio."""
    for number, (name, recipe) in enumerate(recipes.items()):
        parts, times = _way(recipe.process)
        axes.plot(parts, recipe.process.log_snr(times), label=name, **line_style(number))
    axes.set_title("log-SNR = log(alpha² / sigma²)")
    _mark_way(axes, recipes)


def betas(axes: Axes, recipes: Recipes) -> None:
    """Draw the variance that each step of a process of numbered times adds."""
    for number, (name, recipe) in enumerate(recipes.items()):
        parts, times = _way(recipe.process)
        earlier = recipe.process.alpha((times - 1).clamp(min=0)).where(times > 0, 1)
        axes.plot(parts, 1 - (recipe.process.alpha(times) / earlier) ** 2, label=name, **line_style(number))
    axes.set(title="beta, the noise of one step", yscale="log")
    _mark_way(axes, recipes)


def output_weight(axes: Axes, recipes: Recipes) -> None:
    """Draw how much a squared error in what the network outputs counts."""
    for number, (name, recipe) in enumerate(recipes.items()):
        x, weight, _ = _weights(recipe)
        axes.plot(x, weight, label=name, **line_style(number))
    outputs = ", ".join(sorted({recipe.objective.prediction.kind for recipe in recipes.values()}))
    axes.set(title=f"weight of an error in the output ({outputs})", xlabel="log-SNR", yscale="log")


def x0_weight(axes: Axes, recipes: Recipes) -> None:
    """Draw how much a squared error in x0 counts."""
    for number, (name, recipe) in enumerate(recipes.items()):
        x, _, weight = _weights(recipe)
        axes.plot(x, weight, label=name, **line_style(number))
    axes.set(title="weight of an error in x0", xlabel="log-SNR", yscale="log")


def both_weights(axes: Axes, recipe: Recipe) -> None:
    """Draw how much squared errors of the output and of x0 count."""
    x, of_output, of_x0 = _weights(recipe)
    axes.plot(x, of_output, label=f"output ({recipe.objective.prediction.kind})", **line_style(0))
    axes.plot(x, of_x0, label="x0", **line_style(1))
    axes.set(title=f"weight of an error: {recipe.objective.weighting.kind}", xlabel="log-SNR", yscale="log")
    axes.margins(y=0.2)
    axes.legend(loc="upper center", ncols=2)


def x0_error(axes: Axes, recipes: Recipes) -> None:
    """Draw how far off x0 is where the output is off by 1."""
    for number, (name, recipe) in enumerate(recipes.items()):
        alpha, sigma, x = _levels(recipe.process)
        axes.plot(x, _x0_of_one(recipe, alpha, sigma).abs(), label=name, **line_style(number))
    axes.set(title="error in x0 from an error of 1 in the output", xlabel="log-SNR", yscale="log")


def eps_error(axes: Axes, recipes: Recipes) -> None:
    """Draw how far off eps is where the output is off by 1."""
    for number, (name, recipe) in enumerate(recipes.items()):
        alpha, sigma, x = _levels(recipe.process)
        one, zero = torch.ones_like(alpha), torch.zeros_like(alpha)
        eps = recipe.objective.prediction.eps(one, zero, alpha, sigma)
        axes.plot(x, eps.abs(), label=name, **line_style(number))
    axes.set(title="error in eps from an error of 1 in the output", xlabel="log-SNR", yscale="log")


def time_density(axes: Axes, recipes: Recipes) -> None:
    """Draw how often training draws each part of the way, from many draws; 1 is what `uniform` has."""
    for number, (name, recipe) in enumerate(recipes.items()):
        process = recipe.process
        drawn = recipe.objective.time_sampling.draw(_DRAWS, process, torch_generator("cpu", 0, "plot"))
        bins = min(40, len(_way(process)[0]))
        places = _parts_of(drawn, process)
        count = torch.histc(places, bins, 0, 1)
        axes.stairs(
            count * bins / _DRAWS,
            torch.linspace(0, 1, bins + 1),
            baseline=None,
            label=name,
            lw=1.6,
            **line_style(number),
        )
    axes.set_title("density of training times")
    axes.set_ylim(bottom=0)
    _mark_way(axes, recipes)


def visited_levels(axes: Axes, recipe: Recipe) -> None:
    """Draw the log-SNR at each step of a sampler; pure noise, where it is -inf, is a triangle at the bottom."""
    levels = _visited(recipe)
    x = torch.arange(1, len(levels) + 1)
    y = torch.tensor([2 * half_log_snr(level) for level in levels], dtype=torch.float64)
    axes.plot(x, y, marker="o" if len(levels) <= 60 else None, ms=4, **line_style(0))
    if not y.isfinite().all():
        nothing = x[~y.isfinite()]
        at_bottom = axes.get_xaxis_transform()
        axes.plot(nothing, torch.zeros(len(nothing)), "v", color=COLORS[0], clip_on=False, transform=at_bottom)
    axes.set(title=f"levels visited: {recipe.sample.spacing.kind}", xlabel="step", ylabel="log-SNR")


def visited_times(axes: Axes, recipes: Recipes) -> None:
    """Draw the times at which samplers call the network, a row for each recipe."""
    for row, recipe in enumerate(recipes.values()):
        times = [level.time for level in _visited(recipe)]
        axes.plot(times, [row] * len(times), "o-", color=COLORS[0], ms=5, lw=0.6)
    axes.set_title("time that the network sees (noise at the left)")
    axes.invert_xaxis()
    _name_rows(axes, recipes)


def visited_log_snrs(axes: Axes, recipes: Recipes) -> None:
    """Draw the log-SNRs that samplers visit, a row for each recipe; pure noise, at -inf, is a triangle at the left."""
    for row, recipe in enumerate(recipes.values()):
        places = [2 * half_log_snr(level) for level in _visited(recipe)]
        finite = [place for place in places if math.isfinite(place)]
        axes.plot(finite, [row] * len(finite), "o-", color=COLORS[0], ms=5, lw=0.6)
        if len(finite) < len(places):
            axes.plot(0, row, "<", color=COLORS[0], ms=6, clip_on=False, transform=axes.get_yaxis_transform())
    axes.set_title("log-SNR (noise at the left)")
    _name_rows(axes, recipes)


def sampler_walk(axes: Axes, recipe: Recipe) -> None:
    """Draw how pixels walk from noise to data of two values, over the calls of an exact `denoise`.

    Grey is the exact density at each level. Values are divided by sqrt(alpha² + sigma²), so that every process fits.
    Rings are where the exact ODE ends, for samplers that draw no noise.
    """
    data = Mixture()
    done = walk(recipe, data)
    calls = len(done.levels) - 1
    scale = torch.tensor([math.hypot(level.alpha, level.sigma) for level in done.levels], dtype=torch.float64)
    y = torch.linspace(-2.6, 2.6, 261, dtype=torch.float64)
    density = torch.stack([data.density(y * s, level) for s, level in zip(scale, done.levels, strict=True)], dim=1)
    axes.imshow(
        (density / density.amax(dim=0)).numpy(),
        extent=(-0.5, calls + 0.5, -2.6, 2.6),
        aspect="auto",
        origin="lower",
        cmap=matplotlib.colormaps["Greys"].resampled(14),
        vmax=2.5,
        interpolation="nearest",
    )
    lines, ends = done.x / scale[:, None], done.x[-1]
    middle = sum(data.means) / len(data.means)
    for pixel, end in enumerate(ends):
        color = COLORS[0] if end > middle else COLORS[1]
        axes.plot(lines[:, pixel], color=color, lw=0.9, marker="." if calls <= 60 else None, ms=3)
    if done.exact is not None:
        axes.plot([calls] * len(ends), done.exact, "o", mfc="none", mec="black", ms=5, mew=0.7, clip_on=False)
    axes.set(xlim=(-0.5, calls + 0.5), ylim=(-2.6, 2.6), title=f"{recipe.sample.sampler.kind}: {calls} calls")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(False)


def loss_of_error(axes: Axes, recipes: Recipes) -> None:
    """Draw the loss of one element."""
    error = torch.linspace(-3, 3, 301, dtype=torch.float64).view(-1, 1, 1, 1)
    for number, (name, recipe) in enumerate(recipes.items()):
        loss = recipe.objective.loss.per_image(error, torch.zeros_like(error))
        axes.plot(error.flatten(), loss, label=name, **line_style(number))
    axes.set(title="loss", xlabel="error", ylim=(0, 4))


def x0_kept(axes: Axes, recipes: Recipes) -> None:
    """Draw what becomes of the values of one image, which are spread evenly from -2 to 2."""
    x0 = torch.linspace(-2, 2, 401, dtype=torch.float64)
    for number, (name, recipe) in enumerate(recipes.items()):
        kept = recipe.sample.x0_rule.apply(x0.view(1, 1, 1, -1)).flatten()
        axes.plot(x0, kept, label=name, **line_style(number))
    axes.set(title="an image with values from -2 to 2", xlabel="estimated x0", ylabel="x0 after the rule")


def lr_factor(axes: Axes, recipes: Recipes) -> None:
    """Draw the factor of the learning rate over the run."""
    for number, (name, recipe) in enumerate(recipes.items()):
        total, steps = recipe.train.steps, _steps(recipe)
        factors = [recipe.train.lr_schedule.factor(step, total) for step in steps]
        axes.plot(steps, factors, label=name, **line_style(number))
    axes.set(title="factor of the learning rate", xlabel="step")


def ema_memory(axes: Axes, recipes: Recipes) -> None:
    """Draw what part of the average each step replaces."""
    for number, (name, recipe) in enumerate(recipes.items()):
        steps = _steps(recipe)
        replaced = [1 - recipe.train.ema.decay_at(step + 1) for step in steps]
        axes.plot(steps, replaced, label=name, **line_style(number))
    axes.set(title="part of the average that a step replaces: 1 - decay", xlabel="step", yscale="log")


def ema_response(axes: Axes, recipes: Recipes) -> None:
    """Draw how much the weights of each step count in the average at the end; 1 is what each counts in a plain mean.

    Short averages are cut off at the top: without any, the last step would count as much as there are steps.
    """
    for number, (name, recipe) in enumerate(recipes.items()):
        total = recipe.train.steps
        decays = torch.tensor([recipe.train.ema.decay_at(step) for step in range(1, total + 1)], dtype=torch.float64)
        later = torch.cat([decays[1:], torch.ones(1, dtype=torch.float64)]).flip(0).cumprod(0).flip(0)
        axes.plot(torch.arange(1, total + 1), total * (1 - decays) * later, label=name, **line_style(number))
    axes.set(title="what each step counts in the average at the end", xlabel="step", ylim=(0, 30))


def _way(process: Process) -> tuple[Tensor, Tensor]:
    """Return parts of the way, evenly and without its ends, and the times there. All times, if there are not many."""
    count = min(_POINTS, process.steps) if isinstance(process, DiscreteProcess) else _POINTS
    parts = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return parts, process.at(parts)


def _mark_way(axes: Axes, recipes: Recipes) -> None:
    """Write the times below the way, or where the processes have different ones, the parts."""
    parts = torch.linspace(0, 1, 5, dtype=torch.float64)
    times = [recipe.process.at(parts).tolist() for recipe in recipes.values()]
    known = {tuple(f"{round(time, 9):.3g}" for time in ticks) for ticks in times}
    if len(known) == 1:
        axes.set_xticks(parts.tolist(), known.pop())
        axes.set_xlabel("time")
    else:
        axes.set_xlabel("part of the way, from image to noise")
    axes.set_xlim(0, 1)


def _name_rows(axes: Axes, recipes: Recipes) -> None:
    axes.set(yticks=range(len(recipes)), yticklabels=list(recipes), ylim=(len(recipes) - 0.5, -0.5))


def _parts_of(times: Tensor, process: Process) -> Tensor:
    """Return at which parts of the way times are; beyond the ends of the way is outside of [0, 1]."""
    parts, known = _way(process)
    if isinstance(process, DiscreteProcess):
        return (times + 0.5) / process.steps
    # log-SNR falls along the way
    grid, wanted = -process.log_snr(known), -process.log_snr(times)
    high = torch.searchsorted(grid, wanted).clamp(1, len(grid) - 1)
    return torch.lerp(parts[high - 1], parts[high], (wanted - grid[high - 1]) / (grid[high] - grid[high - 1]))


def _levels(process: Process) -> tuple[Tensor, Tensor, Tensor]:
    """Return alpha, sigma and log-SNR along the way."""
    _, times = _way(process)
    return process.alpha(times), process.sigma(times), process.log_snr(times)


def _weights(recipe: Recipe) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-SNRs, the weight of a squared error in the output, and that of the same error in x0."""
    alpha, sigma, x = _levels(recipe.process)
    weight = recipe.objective.weighting.weight(alpha, sigma, recipe.objective.prediction)
    return x, weight, weight / _x0_of_one(recipe, alpha, sigma) ** 2


def _x0_of_one(recipe: Recipe, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the error in x0 from an error of 1 in the output: x0 is linear in it."""
    return recipe.objective.prediction.x0(torch.ones_like(alpha), torch.zeros_like(alpha), alpha, sigma)


def _visited(recipe: Recipe) -> list[Level]:
    return recipe.sample.spacing.levels(recipe.process, recipe.sample.steps)[:-1]


def _steps(recipe: Recipe) -> list[int]:
    total = recipe.train.steps
    return sorted({round(i * (total - 1) / _POINTS) for i in range(_POINTS + 1)})
