"""A callback that draws how the same noise turns into images as training goes on, and a command that redraws it.

The entry point of the plugin. It imports no torch, so that ``diffkit --help`` stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import diffkit

if TYPE_CHECKING:
    import typer

    from diffkit.spec import Component


@diffkit.hookimpl
def register_components() -> list[type[Component]]:
    """Add the callback."""
    from diffkit_filmstrip.callback import Filmstrip

    return [Filmstrip]


@diffkit.hookimpl
def register_commands(app: typer.Typer) -> None:
    """Add ``diffkit filmstrip``."""
    from diffkit_filmstrip.command import command

    app.command("filmstrip")(command)
