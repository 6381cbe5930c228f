"""What the tests of the example plugins share. They use the plugins as diffkit does: through their entry points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from diffkit.plugins.manager import Plugins
from diffkit.spec import unregister

if TYPE_CHECKING:
    from diffkit.recipe.tables import Recipe

torch.set_num_threads(1)

INSTALLABLE = ("convnext", "edm2", "filmstrip")


@pytest.fixture
def plugins() -> Iterator[Plugins]:
    """All installed plugins, with their components registered while a test runs."""
    loaded = Plugins()
    for name in INSTALLABLE:
        if name not in loaded.infos:
            pytest.fail(f"the plugin is not installed: pip install ./plugins/diffkit-{name}", pytrace=False)
    loaded.register_components()
    for broken in loaded.broken():
        pytest.fail(broken.left_out, pytrace=False)
    before = set(loaded.infos)
    yield loaded
    for name in (*INSTALLABLE, *(set(loaded.infos) - before)):
        unregister(name)


@pytest.fixture
def small() -> list[str]:
    """Overrides that make any recipe of digits small enough to train in a test."""
    return [
        "model.channels=8",
        "model.multipliers=[1, 2]",
        "model.blocks_per_level=1",
        "model.norm={kind = 'group', groups = 4}",
        "process.steps=20",
        "train.steps=6",
        "train.batch_size=8",
        "train.log_every=2",
        "train.checkpoint_every=3",
        "train.lr_schedule='constant'",
        "sample.steps=4",
        "sample.count=4",
    ]


@pytest.fixture
def open_small(plugins: Plugins, small: list[str]) -> Callable[..., Recipe]:
    """Opens a recipe in small, with further ``key=value`` overrides."""

    def make(recipe: str | Path, *overrides: str) -> Recipe:
        return plugins.open_recipe(str(recipe), [*small, *overrides])

    return make
