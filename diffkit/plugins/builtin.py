"""diffkit as its own first plugin: the only importer of concrete kinds.

The imports are inside the functions so that loading this module does not load torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from diffkit.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from diffkit.spec import Component


@hookimpl
def register_components() -> Iterable[type[Component]]:
    """Return every kind that diffkit brings."""
    return [*_data(), *_schedules(), *_diffusion(), *_nn(), *_optim(), *_callbacks()]


def _data() -> list[type[Component]]:
    return []


def _schedules() -> list[type[Component]]:
    return []


def _diffusion() -> list[type[Component]]:
    return []


def _nn() -> list[type[Component]]:
    return []


def _optim() -> list[type[Component]]:
    return []


def _callbacks() -> list[type[Component]]:
    from diffkit.callbacks.jsonl import Jsonl
    from diffkit.callbacks.progress import ProgressBar
    from diffkit.callbacks.sample_grid import SampleGrid

    return [Jsonl, ProgressBar, SampleGrid]
