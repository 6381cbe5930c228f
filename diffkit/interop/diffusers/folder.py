"""The files of a diffusers pipeline folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from diffkit.bounds import parse_json, read_bytes
from diffkit.errors import CheckpointError
from diffkit.interop.base import Source

INDEX = "model_index.json"
UNET, SCHEDULER = "unet", "scheduler"
UNET_CONFIG, SCHEDULER_CONFIG = "config.json", "scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model"
SAFE, PICKLED = f"{WEIGHTS}.safetensors", f"{WEIGHTS}.bin"


def read_json(file: Path) -> dict[str, Any]:
    """Read a config.

    Raises:
        CheckpointError: If it is missing or no JSON object.
    """
    try:
        content = parse_json(read_bytes(file))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise CheckpointError(f"{file}: not JSON that can be read ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: a config is a JSON object")
    return content


def read_tensors(folder: Path, source: Source) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a model's weights, in one file or in shards, and the texts in their header.

    Raises:
        UserError: If they are pickled, and the user has not allowed that.
        CheckpointError: If they are missing or damaged.
    """
    if (folder / SAFE).is_file():
        return _read_safe(folder / SAFE)
    if (folder / f"{SAFE}.index.json").is_file():
        return _read_shards(folder, f"{SAFE}.index.json", source)
    if (folder / PICKLED).is_file():
        return _read_pickled(folder / PICKLED, source), {}
    if (folder / f"{PICKLED}.index.json").is_file():
        return _read_shards(folder, f"{PICKLED}.index.json", source)
    there = ", ".join(sorted(path.name for path in folder.glob(f"{WEIGHTS}*"))) if folder.is_dir() else ""
    also = f"; there is {there}: give one of them this name" if there else ""
    raise CheckpointError(f"{folder / SAFE}: no such file{also}")


def _read_shards(folder: Path, index: str, source: Source) -> tuple[dict[str, Tensor], dict[str, str]]:
    places = read_json(folder / index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{folder / index}: holds no weight_map from names to files")
    tensors: dict[str, Tensor] = {}
    texts: dict[str, str] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            raise CheckpointError(f"{folder / index}: names a file outside of its folder: {name}")
        if name.endswith(".safetensors"):
            found, said = _read_safe(folder / name)
            texts.update(said)
        else:
            found = _read_pickled(folder / name, source)
        tensors.update(found)
    if missing := sorted(places.keys() - tensors.keys()):
        raise CheckpointError(f"{folder / index}: {missing[0]} is not in {places[missing[0]]}")
    return tensors, texts


def _read_safe(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file")
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError, ValueError, TypeError, MemoryError, OverflowError) as error:
        raise CheckpointError(f"{file}: damaged, not a readable safetensors file ({error})") from None


def _read_pickled(file: Path, source: Source) -> dict[str, Tensor]:
    content = source.unpickled(file)
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise CheckpointError(f"{file}: not a table of tensors by name")
    return content
