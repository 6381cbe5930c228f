"""The note that an export leaves in its weights' header: the recipe, of which diffusers keeps a part only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from diffkit.bounds import parse_json
from diffkit.data.base import DataInfo, read_info
from diffkit.errors import UserError
from diffkit.interop.diffusers.export_config import unet_of
from diffkit.interop.diffusers.export_scheduler import scheduler_of
from diffkit.interop.diffusers.scheduler_config import SchedulerConfig
from diffkit.interop.diffusers.unet_config import UNetConfig
from diffkit.recipe.load import parse_toml, validate
from diffkit.recipe.tables import Recipe
from diffkit.recipe.write import to_toml

_RECIPE, _DATA = "diffkit.recipe", "diffkit.data"


@dataclass(frozen=True)
class Note:
    """What diffkit knows of a model that it exported once.

    Attributes:
        recipe: The recipe's tables.
        data: What the model knows of its images.
    """

    recipe: dict[str, Any]
    data: DataInfo

    def tensors(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors without the vector for no class that an import adds: there is one among them already."""
        classes = tensors.get("class_embedding.weight")
        return tensors if classes is None else {**tensors, "class_embedding.weight": classes[:-1].clone()}


def write_note(recipe: Recipe, data: DataInfo) -> dict[str, str]:
    """Return the texts for the header."""
    return {"format": "pt", _RECIPE: to_toml(recipe), _DATA: json.dumps(vars(data))}


def read_note(
    texts: Mapping[str, str], config: UNetConfig, scheduler: SchedulerConfig, imported: dict[str, Any]
) -> Note | None:
    """Return the note, if there is one and it is still true.

    Args:
        texts: The header's.
        config: The network's config; the note counts only if its recipe has this network.
        scheduler: The scheduler's config: where the recipe has another, the process and sampling are as imported.
        imported: The recipe's tables, as far as diffusers says them.
    """
    if _RECIPE not in texts or _DATA not in texts:
        return None
    try:
        tables = parse_toml(texts[_RECIPE], "the note of an export")
        data = read_info(parse_json(texts[_DATA]))
        recipe = validate(tables, "the note of an export", cross_check=False)
        if unet_of(recipe, data) != config:
            return None
    except (UserError, ValueError, TypeError, KeyError):
        return None
    try:
        same = scheduler_of(recipe)[0] == scheduler
    except UserError:
        same = False
    if not same:
        kept = {"objective": {**tables["objective"], **imported["objective"]}}
        tables = {**tables, **{name: imported[name] for name in ("process", "sample")}, **kept}
    return Note(tables, data)
