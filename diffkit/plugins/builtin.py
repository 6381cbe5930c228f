"""diffkit as its own first plugin: the only importer of concrete kinds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from diffkit.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from diffkit.spec import Component


@hookimpl
def register_components() -> Iterable[type[Component]]:
    """Return every kind that diffkit brings, family by family."""
    from diffkit.callbacks import KINDS as callbacks
    from diffkit.data import KINDS as data
    from diffkit.diffusion import KINDS as diffusion
    from diffkit.nn import KINDS as nn
    from diffkit.optim import KINDS as optim
    from diffkit.schedules import KINDS as schedules

    return [*data, *schedules, *diffusion, *nn, *optim, *callbacks]
