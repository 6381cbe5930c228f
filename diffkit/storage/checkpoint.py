"""Checkpoints: folders of safetensors files and one JSON file with their hashes. Nothing is ever pickled.

``model.safetensors``, ``ema.safetensors`` and the files of further averages, such as ``ema-0.1.safetensors``, hold the
filled recipe in their header, so that one file is enough to sample from.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
from torch import Tensor

import diffkit
from diffkit.bounds import parse_json, read_bytes
from diffkit.data.base import DataInfo, read_info
from diffkit.errors import CheckpointError, RecipeError
from diffkit.recipe.load import parse_toml, validate
from diffkit.recipe.rules import problems_of_model
from diffkit.recipe.tables import Recipe
from diffkit.recipe.write import to_toml
from diffkit.spec import families
from diffkit.storage.files import delete_folder, new_folder, sha256, write_tensors

log = logging.getLogger(__name__)

FORMAT = 1
"""Version of the layout; a newer one is refused."""

MODEL, EMA, OPTIMIZER, STATE = "model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"

ENDING = ".safetensors"

LARGEST_STEP = 2**53
"""No training takes more steps: floats count them exactly."""


class TooNew(CheckpointError):
    """A file of a newer diffkit. It is as good as any, so none of before is used in its place."""


@dataclass(frozen=True)
class Header:
    """What a weights file says of its model.

    Attributes:
        recipe: The filled recipe, as plain tables.
        data: What the model knows of its images.
        plugins: The components that come from plugins, as ``{"family.kind": "plugin"}``.
        step: Number of optimizer steps taken.
        images: Number of images that it is trained on; None where that isn't said.
    """

    recipe: dict[str, Any]
    data: DataInfo
    plugins: dict[str, str]
    step: int
    images: int | None = None


Holds = Literal["model", "classifier"]
"""What a weights file is of: the recipe's model, or a classifier of its noisy images."""


def make_header(
    recipe: Recipe,
    data: DataInfo,
    plugins: Mapping[str, str],
    step: int,
    holds: Holds = "model",
    images: int | None = None,
) -> dict[str, str]:
    """Write a header as safetensors holds it: text to text."""
    about = {"format": FORMAT, "version": diffkit.__version__, "step": step, "holds": holds, "images": images}
    return {
        "format": "pt",
        "diffkit": json.dumps(about),
        "recipe": to_toml(recipe),
        "data": json.dumps({**vars(data)}),
        "plugins": json.dumps(dict(plugins)),
    }


def read_weights(file: Path, holds: Holds = "model") -> tuple[Header, dict[str, Tensor]]:
    """Read a weights file.

    Args:
        file: The file.
        holds: What it must be of.

    Raises:
        CheckpointError: If it is missing, damaged, newer than this diffkit, not diffkit's or of something else.
    """
    metadata, tensors = _read_safetensors(file)
    return _parsed(metadata, file, holds), tensors


def _parsed(metadata: Mapping[str, str], file: Path, holds: Holds) -> Header:
    if "diffkit" not in metadata:
        raise CheckpointError(f"{file}: not a weights file of diffkit: it holds no recipe")
    try:
        about, plugins = parse_json(metadata["diffkit"]), parse_json(metadata["plugins"])
        if about["format"] > FORMAT:
            raise _too_new(file, about["version"])
        found = about.get("holds", "model")  # files of before there were others don't say it
        if found != holds:
            raise CheckpointError(f"{file}: holds the weights of a {found}, not of a {holds}")
        data, step = read_info(parse_json(metadata["data"])), about["step"]
        if type(step) is not int or not 0 <= step <= LARGEST_STEP:
            raise ValueError("no number of steps")
        if not all(isinstance(owner, str) for owner in plugins.values()):
            raise ValueError("plugins without names")
        images = about.get("images")
        if images is not None and type(images) is not int:
            raise ValueError("no number of images")
        return Header(parse_toml(metadata["recipe"], str(file)), data, plugins, step, images)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CheckpointError(f"{file}: the header is damaged") from None


def read_metadata(file: Path) -> dict[str, str]:
    """Return the texts in a weights file's header, as they are: its tensors stay unread.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    with _reading(file) as opened:
        return opened.metadata() or {}


def recipe_of(header: Header, source: Path) -> Recipe:
    """Validate the recipe in a weights file's header.

    Raises:
        CheckpointError: If it needs a component that isn't there; names the plugin that had it.
    """
    try:
        recipe = validate(header.recipe, str(source), cross_check=False)
        if problems := problems_of_model(recipe):
            raise RecipeError(source, problems)
        return recipe
    except RecipeError as error:
        missing = [f"{kind} of plugin '{owner}'" for kind, owner in header.plugins.items() if not _is_registered(kind)]
        if missing:
            needs = ", ".join(missing)
            raise CheckpointError(f"{source}: needs {needs}: install it, or name its file with --plugin") from None
        raise CheckpointError(str(error)) from None


def _is_registered(component: str) -> bool:
    family, _, kind = component.partition(".")
    return family in families() and kind in families()[family].kinds


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, as training goes on from it.

    Attributes:
        folder: Where it lies.
        step: Number of optimizer steps taken.
        header: What it says of its model.
        model: The network's weights.
        averages: The averages of the weights, by name; that named ``ema`` is sampled from.
        optimizer: The optimizer's tensors, by ``parameter/name``, and the trainer's own.
    """

    folder: Path
    step: int
    header: Header
    model: dict[str, Tensor]
    averages: dict[str, dict[str, Tensor]]
    optimizer: dict[str, Tensor]


def checkpoint_name(step: int) -> str:
    """Return the name of the folder of a step's checkpoint."""
    return f"step-{step:08d}"


def write_checkpoint(
    parent: Path,
    step: int,
    header: dict[str, str],
    model: dict[str, Tensor],
    averages: Mapping[str, dict[str, Tensor]],
    optimizer: dict[str, Tensor],
) -> Path:
    """Write a checkpoint; it appears whole or not at all. Returns its folder."""
    return _write(parent, step, header, {MODEL: model, **_files_of(averages), OPTIMIZER: optimizer})


def write_averages(parent: Path, step: int, header: dict[str, str], averages: Mapping[str, dict[str, Tensor]]) -> Path:
    """Write a folder as a checkpoint's, with nothing but the averages; it appears whole or not at all. Returns it."""
    return _write(parent, step, header, _files_of(averages))


def _files_of(averages: Mapping[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    return {f"{name}{ENDING}": tensors for name, tensors in averages.items()}


def _write(parent: Path, step: int, header: dict[str, str], files: Mapping[str, dict[str, Tensor]]) -> Path:
    folder = parent / checkpoint_name(step)
    if folder.exists():  # of a run that went on from an older checkpoint than this one: it was damaged
        delete_folder(folder)
    with new_folder(folder) as temporary:
        for name, tensors in files.items():
            write_tensors(tensors, temporary / name, header if name != OPTIMIZER else {"format": "pt"})
        state = {
            "format": FORMAT,
            "version": diffkit.__version__,
            "step": step,
            "sha256": {name: sha256(temporary / name) for name in files},
        }
        (temporary / STATE).write_text(json.dumps(state, indent=2) + "\n")
    return folder


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint and verify every file's hash.

    Raises:
        CheckpointError: If anything is missing, damaged or newer than this diffkit.
    """
    step = verify_checkpoint(folder)
    header, model = read_weights(folder / MODEL)
    _, optimizer = _read_safetensors(folder / OPTIMIZER)
    averages = {file.name.removesuffix(ENDING): _read_safetensors(file)[1] for file in averages_in(folder)}
    return Checkpoint(folder, step, header, model, averages, optimizer)


def averages_in(folder: Path) -> list[Path]:
    """Return the files of the averages in a folder of a checkpoint or of averages alone, as `state.json` lists them.

    Raises:
        CheckpointError: If that cannot be read.
    """
    _, hashes = _read_state(folder)
    return [folder / name for name in sorted(hashes) if name not in (MODEL, OPTIMIZER)]


def verify_checkpoint(folder: Path) -> int:
    """Check that a checkpoint is whole, by its hashes, and return its step.

    Raises:
        CheckpointError: If it is not.
    """
    return _verify(folder, (MODEL, EMA, OPTIMIZER))


def verify_averages(folder: Path) -> int:
    """Check that a folder of averages alone is whole, by its hashes, and return its step.

    Raises:
        CheckpointError: If it is not.
    """
    return _verify(folder, (EMA,))


def _verify(folder: Path, needed: Iterable[str]) -> int:
    """Check the files that must be there, and all others that are listed."""
    step, hashes = _read_state(folder)
    for name in {**dict.fromkeys(needed), **hashes}:
        _verify_file(folder / name, hashes)
    return step


def verify_weights(file: Path) -> None:
    """Check one file of a checkpoint by its hash; a file that lies alone has none to check by.

    Raises:
        CheckpointError: If it is not what was written.
    """
    if (file.parent / STATE).is_file():
        _, hashes = _read_state(file.parent)
        if file.name in hashes:
            _verify_file(file, hashes)


def _read_state(folder: Path) -> tuple[int, dict[str, str]]:
    """Return a checkpoint's step, and the hashes of its files by name."""
    try:
        state = parse_json(read_bytes(folder / STATE))
        step, hashes, version = int(state["step"]), dict(state["sha256"]), int(state["format"])
    except OSError as error:
        raise CheckpointError(f"{folder / STATE}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, OverflowError):
        raise CheckpointError(f"{folder / STATE}: damaged") from None
    if strange := [name for name in hashes if not _is_plain(name)]:
        raise CheckpointError(f"{folder / STATE}: damaged: {strange[0]!r} is no file of this folder")
    if version > FORMAT:
        raise _too_new(folder, state.get("version"))
    return step, hashes


def _is_plain(name: Any) -> bool:
    """Return whether a name can only be of something that lies in the folder itself."""
    return isinstance(name, str) and name not in ("", ".", "..") and "\0" not in name and Path(name).name == name


def _verify_file(file: Path, hashes: Mapping[str, str]) -> None:
    if file.exists() and not file.is_file():  # a device or a pipe may have no end
        raise CheckpointError(f"{file}: damaged: not a regular file")
    try:
        whole = hashes.get(file.name) == sha256(file)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from None
    if not whole:
        raise CheckpointError(f"{file}: damaged: its SHA-256 is not the one in {STATE}")


def list_checkpoints(parent: Path) -> list[Path]:
    """Return the checkpoints' folders, oldest first."""
    return sorted(
        path for path in parent.glob("step-*") if path.name.removeprefix("step-").isdecimal() and path.is_dir()
    )


def newest_whole(parent: Path) -> Path | None:
    """Return the newest whole checkpoint; log a warning about each newer one that is damaged.

    Raises:
        TooNew: If a newer diffkit wrote it.
    """
    for folder in reversed(list_checkpoints(parent)):
        try:
            verify_checkpoint(folder)
        except TooNew:
            raise
        except CheckpointError as error:
            log.warning("passed over: %s", error)
        else:
            return folder
    return None


def newest_to_go_on_from(parent: Path) -> Path | None:
    """Return the newest whole checkpoint; None if there is none of any kind, as before the first one.

    Damaged ones after it lose their names, or `rotate` would count them as the newest and delete whole ones. They are
    kept all the same, as ``damaged-step-...``.

    Raises:
        TooNew: If a newer diffkit wrote the newest one.
        CheckpointError: If all are damaged.
    """
    there, newest = list_checkpoints(parent), newest_whole(parent)
    if newest is None and there:
        raise CheckpointError(f"{parent}: all {len(there)} checkpoints are damaged: mend one, or start a new run")
    for folder in [] if newest is None else there[there.index(newest) + 1 :]:
        number = 1
        while (aside := parent / f"damaged-{folder.name}{f'-{number}' if number > 1 else ''}").exists():
            number += 1
        folder.rename(aside)
        log.warning("kept as %s", aside)
    return newest


def rotate(parent: Path, keep_last: int, keep_every: int | None) -> None:
    """Delete all but the newest `keep_last` checkpoints and those whose step is a multiple of `keep_every`."""
    every = keep_every or math.inf
    for folder in list_checkpoints(parent)[:-keep_last]:
        if int(folder.name.removeprefix("step-")) % every != 0:
            delete_folder(folder)


def delete_after(parent: Path, step: int) -> None:
    """Delete those that a run wrote after the step from which it goes on: it writes them again."""
    for folder in list_checkpoints(parent):
        if int(folder.name.removeprefix("step-")) > step:
            delete_folder(folder)


def _too_new(path: Path, version: object) -> TooNew:
    ours = diffkit.__version__
    return TooNew(f"{path}: written by diffkit {version}, and this is {ours}: update diffkit")


def _read_safetensors(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with _reading(file) as opened:
        return opened.metadata() or {}, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[Any]:
    """Open a file of tensors.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file")
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            yield opened
    except (OSError, safetensors.SafetensorError, ValueError, TypeError, MemoryError, OverflowError) as error:
        raise CheckpointError(f"{file}: damaged, not a readable safetensors file ({error})") from None
