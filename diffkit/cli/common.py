"""What several commands do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from diffkit.bounds import printable
from diffkit.errors import UserError, naming

if TYPE_CHECKING:
    import torch

    from diffkit.plugins.manager import Plugins
    from diffkit.storage.runs import Weights


LARGEST_SIDE = 8192
"""Of images to be sampled."""


def load_plugins(files: Iterable[Path] | None = None) -> Plugins:
    """Load all plugins and register their components; warn of the broken ones by name.

    Args:
        files: Further plugins, as Python files.

    Raises:
        PluginError: If one of the `files` cannot be used.
    """
    from diffkit.plugins.manager import Plugins

    plugins = Plugins()
    plugins.register_components()
    for file in files or ():
        plugins.add_file(file)
    plugins.recipes()  # so that plugins which fail at that are known too
    warn_of_broken(plugins)
    return plugins


def warn_of_broken(plugins: Plugins) -> None:
    """Print one line on stderr for each plugin that is left out; of several processes, the first one prints it."""
    for plugin in plugins.broken() if os.environ.get("RANK", "0") == "0" else ():
        print(f"Warning: {plugin.left_out}", file=sys.stderr)


def pick_device(name: str) -> torch.device:
    """Return the device that a user asked for; ``auto`` is a GPU if there is one.

    Raises:
        UserError: If torch knows no such device, or has none.
    """
    import torch

    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # whatever the device's part of torch raises
        raise UserError(f"device '{name}': {str(error).partition(chr(10))[0]}") from None
    if device.type == "meta":
        raise UserError("device 'meta': holds no numbers: use cpu or cuda")
    return device


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Return the height and width that a text such as ``32x48`` says, or ``32`` for a square.

    Raises:
        UserError: If it says none.
    """
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and 1 <= int(side) <= LARGEST_SIDE for side in sides):
        raise UserError(f"size '{text}': give height and width, such as 32x48, each of 1 to {LARGEST_SIDE}")
    return int(sides[0]), int(sides[-1])


def refuse_existing(file: Path | None, *, force: bool = False) -> None:
    """Check, before the work of hours, that a file can be written at its end.

    Args:
        file: The file; None for no file.
        force: Write also where a file is.

    Raises:
        UserError: If a file is there, or its folder is not.
    """
    if file is None:
        return
    if file.exists() and not force:
        raise UserError(f"{file}: exists already; --force overwrites it")
    if not file.parent.is_dir():
        raise UserError(f"{file}: there is no folder {file.parent}")


def chosen_weights(weights: Literal["ema", "raw"], ema: float | None) -> Weights:
    """Return which weights the options --weights and --ema ask for.

    Raises:
        UserError: If they ask for two things at once.
    """
    if ema is not None and weights == "raw":
        raise UserError(f"--ema {ema}: is an average, and --weights raw is none: leave one of them out")
    return weights if ema is None else ema


def weights_name(weights: Weights) -> str:
    """Return what weights are called in what commands print: ``ema``, ``raw`` or such as ``ema 0.08``."""
    return weights if isinstance(weights, str) else f"ema {weights:g}"


def run_and_overrides(run: Path | None, overrides: Sequence[str] | None) -> tuple[Path | None, list[str]]:
    """Return the run that a user named, if any, and the overrides, the first of which may stand in its place."""
    given = list(overrides or ())
    if run is not None and "=" in str(run) and not run.exists():
        return None, [str(run), *given]
    return run, given


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Lay rows out in columns that are as wide as what stands in them, without what a terminal would obey."""
    shown = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in shown)


def write_new(file: Path, content: str | bytes, *, force: bool = False) -> None:
    """Write a file that isn't there yet.

    Args:
        file: The file.
        content: Its content; text is written as UTF-8.
        force: Write also where a file is.

    Raises:
        UserError: If a file is there, or none can be written.
    """
    try:
        with naming(file), file.open("wb" if force else "xb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
    except FileExistsError:
        raise UserError(f"{file}: exists already; --force overwrites it") from None


def write_or_print(text: str, file: Path | None, *, force: bool = False) -> None:
    """Write a text into a new file and print where, or print the text itself."""
    if file is None:
        sys.stdout.write(text)
    else:
        write_new(file, text, force=force)
        print(file)
