"""Whole pictures: of one recipe, and of all kinds of a family in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffkit.errors import RecipeError, UserError, did_you_mean
from diffkit.plotting import panels
from diffkit.plotting.canvas import house_style, legend_below, new_figure
from diffkit.plotting.panels import Recipes
from diffkit.recipe.load import validate
from diffkit.recipe.overrides import apply_override
from diffkit.recipe.tables import Recipe
from diffkit.spec import families


def draw_recipe(recipe: Recipe) -> Figure:
    """Draw a recipe's signal and log-SNR, loss weight, training times, visited levels and sampler."""
    with house_style():
        figure = new_figure(12, 6.6)
        figure.suptitle(f"{recipe.name}: process {recipe.process.kind}")
        top, bottom = figure.subplots(2, 3)
        panels.alpha_bar(top[0], {recipe.name: recipe})
        panels.log_snr(top[1], {recipe.name: recipe})
        panels.both_weights(top[2], recipe)
        panels.time_density(bottom[0], {recipe.name: recipe})
        bottom[0].set_title(f"density of training times: {recipe.objective.time_sampling.kind}")
        panels.visited_levels(bottom[1], recipe)
        panels.sampler_walk(bottom[2], recipe)
        bottom[2].set(xlabel="network calls", ylabel="pixel")
        return figure


def draw_family(family: str, recipes: Recipes) -> Figure:
    """Draw the kinds of a family next to each other.

    Args:
        family: The name of the family, one of `FAMILIES`.
        recipes: A recipe for each kind, as from `variants`.
    """
    with house_style():
        return FAMILIES[family].draw(recipes)


@dataclass(frozen=True)
class Variants:
    """Recipes that differ in the kind of one family.

    Attributes:
        recipes: The recipes, by the name of the kind.
        left_out: Why the other kinds don't fit the recipe, by their names.
    """

    recipes: dict[str, Recipe]
    left_out: dict[str, str]


def variants(recipe: Recipe, family: str) -> Variants:
    """Put each kind of a family, with its default settings, in the place of the recipe's own.

    The recipe's own kind keeps its settings.

    Raises:
        UserError: If pictures of the family aren't known, or the recipe has no place for it.
    """
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError(f"there is no picture of the family '{family}'.{did_you_mean(family, FAMILIES)} Known: {known}")
    key = FAMILIES[family].key
    own = _at(recipe, key)
    if own is None:
        raise UserError(f"{recipe.name}: process '{recipe.process.kind}' has no {family} to compare")
    found = Variants({}, {})
    for kind in sorted(families()[family].kinds):
        if kind == own.kind:
            found.recipes[kind] = recipe
            continue
        document = recipe.model_dump(mode="json")
        apply_override(document, f"{key}={kind}")
        try:
            found.recipes[kind] = validate(document, recipe.name)
        except RecipeError as error:
            # what follows from the kind elsewhere, as in a callback that samples, says the same again
            own_problems = [problem for problem in error.problems if problem.key.startswith(key)] or error.problems
            found.left_out[kind] = "; ".join(f"{problem.key}: {problem.message}" for problem in own_problems)
    return found


def _at(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part, None)
    return value


Panel = Callable[[Axes, Recipes], None]


@dataclass(frozen=True)
class _Picture:
    """How a family is drawn.

    Attributes:
        key: Where in a recipe a kind of it is.
        draw: Draws recipes that differ there.
    """

    key: str
    draw: Callable[[Recipes], Figure]


def _side_by_side(*shown: Panel, recipes: Recipes) -> Figure:
    """Draw lines, a panel next to the other, and name them below."""
    figure = new_figure(5.5 * len(shown) if len(shown) < 3 else 13, 4.2)
    row = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, panel in zip(row, shown, strict=True):
        panel(axes, recipes)
    legend_below(figure, row[0], columns=4 * len(shown) + 1)
    return figure


def _rows(recipes: Recipes) -> Figure:
    figure = new_figure(11, 1.4 + 0.32 * len(recipes))
    left, right = figure.subplots(1, 2, sharey=True)
    panels.visited_times(left, recipes)
    panels.visited_log_snrs(right, recipes)
    return figure


def _walks(recipes: Recipes) -> Figure:
    columns = min(5, len(recipes))
    rows = -(-len(recipes) // columns)
    figure = new_figure(2.2 * columns, 1.55 * rows + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(recipes) :]:
        axes.remove()
    for axes, recipe in zip(grid.flat, recipes.values(), strict=False):
        panels.sampler_walk(axes, recipe)
    figure.supxlabel("network calls", fontsize="medium")
    figure.supylabel("pixel", fontsize="medium")
    return figure


def _lines(key: str, *shown: Panel) -> _Picture:
    return _Picture(key, lambda recipes: _side_by_side(*shown, recipes=recipes))


FAMILIES = {
    "beta_schedule": _lines("process.schedule", panels.betas, panels.alpha_bar, panels.log_snr),
    "process": _lines("process", panels.alpha_bar, panels.log_snr),
    "prediction": _lines("objective.prediction", panels.x0_error, panels.eps_error),
    "loss": _lines("objective.loss", panels.loss_of_error),
    "loss_weighting": _lines("objective.weighting", panels.output_weight, panels.x0_weight),
    "time_sampling": _lines("objective.time_sampling", panels.time_density),
    "spacing": _Picture("sample.spacing", _rows),
    "sampler": _Picture("sample.sampler", _walks),
    "x0_rule": _lines("sample.x0_rule", panels.x0_kept),
    "lr_schedule": _lines("train.lr_schedule", panels.lr_factor),
    "ema": _lines("train.ema", panels.ema_memory, panels.ema_response),
}
"""The families that there are pictures of."""
