"""Writes the pictures in docs/images that `diffkit plot` draws: of the quickstart recipe, and one a family.

Run it after any change to a kind that is drawn: ``python docs/make_pictures.py [FAMILY ...]``. Needs matplotlib.
"""

from __future__ import annotations

import sys
from pathlib import Path

from diffkit.plotting.canvas import to_bytes
from diffkit.plotting.draw import FAMILIES, draw_family, draw_recipe, variants
from diffkit.plugins import builtin
from diffkit.recipe.load import read_document, validate
from diffkit.recipe.packaged import packaged_recipes
from diffkit.recipe.tables import Recipe
from diffkit.spec import register

FOLDER = Path(__file__).parent / "images"

OVERRIDES = {
    "loss_weighting": ["process.schedule=linear"],
    "prediction": ["process.schedule=linear"],
    "spacing": ["process.schedule=linear", "sample.steps=10"],
    "sampler": ["process.schedule=linear", "sample.steps=8", "sample.spacing=log_snr"],
    "lr_schedule": ["train.steps=20000"],
    "ema": ["train.steps=20000"],
}
"""What is changed in the quickstart recipe for the pictures of some families."""


def quickstart(overrides: list[str]) -> Recipe:
    """Return the quickstart recipe, with overrides."""
    file = packaged_recipes()["quickstart"]
    return validate(read_document(file, overrides), str(file))


def main(wanted: list[str]) -> None:
    """Write the pictures of some families, or of all and of the recipe itself."""
    register(builtin.register_components(), owner="diffkit")
    if not wanted:
        (FOLDER / "quickstart-plot.png").write_bytes(to_bytes(draw_recipe(quickstart([])), "png"))
    for family in wanted or FAMILIES:
        found = variants(quickstart(OVERRIDES.get(family, [])), family)
        (FOLDER / f"{family}.png").write_bytes(to_bytes(draw_family(family, found.recipes), "png"))


if __name__ == "__main__":
    main(sys.argv[1:])
