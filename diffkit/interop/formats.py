"""Which formats there are, and which one a file or folder is of. The only importer of the concrete ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from diffkit.errors import CheckpointError, UserError, did_you_mean
from diffkit.interop.base import Exporter, Imported, Importer, Source
from diffkit.interop.diffusers.read import DiffusersImporter
from diffkit.interop.diffusers.write import DiffusersExporter
from diffkit.interop.edm import Edm
from diffkit.interop.guided_diffusion import GuidedDiffusion, ImprovedDiffusion
from diffkit.interop.lucidrains import Lucidrains
from diffkit.interop.network_file import Onnx, TorchExport
from diffkit.pipeline import Pipeline
from diffkit.storage.runs import Weights, home_of

Format = TypeVar("Format", Importer, Exporter)


def importers() -> list[Importer]:
    """Return what reads models, in the order in which they are asked whether they know a source."""
    return [DiffusersImporter(), ImprovedDiffusion(), GuidedDiffusion(), Edm(), Lucidrains()]


def exporters() -> list[Exporter]:
    """Return what writes models."""
    return [DiffusersExporter(), TorchExport(), Onnx()]


def read_foreign(source: Source, format: str | None = None) -> Imported:
    """Read a model of another library.

    Args:
        source: What to read.
        format: The library; found out from the source by default.

    Raises:
        UserError: If it is of no known format, or cannot be expressed exactly.
    """
    if format is not None:
        return _read(find(importers(), format), source)
    if not source.path.exists():
        beside = [other.name for other in source.path.parent.glob("*")] if source.path.parent.is_dir() else []
        raise UserError(f"{source.path}: no such file or folder.{did_you_mean(source.path.name, beside)}")
    for importer in importers():
        if importer.recognizes(source):
            return _read(importer, source)
    known = "; ".join(f"{importer.name}: {importer.takes}" for importer in importers())
    raise UserError(f"{source.path}: a model of no known format. Known: {known}")


def _read(importer: Importer, source: Source) -> Imported:
    try:
        return replace(importer.read(source), home=home_of(source.path))
    except UNFIT as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise CheckpointError(
            f"{source.path}: damaged, or not a model that {importer.name} has written: what is in it does not fit "
            f"together ({reason})"
        ) from error


UNFIT = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError)
"""What importers run into where a file lacks tensors, or has them in other shapes than its library gives them."""


def load_any(
    path: Path,
    weights: Weights = "ema",
    device: torch.device | str = "cpu",
    *,
    allow_pickle: bool = False,
    steps: int | None = None,
) -> Pipeline:
    """Load a run, a checkpoint, a weights file or a model of another library.

    Args:
        path: The folder or file.
        weights: The averaged weights or those of the last step, where there are both; or, of diffkit's own runs, the
            length of an average that is made of snapshots.
        device: Where the network goes.
        allow_pickle: Whether pickled weights of other libraries may be read.
        steps: The number of sampling steps that is wanted, of a model of another library; that decides what this means
            where its spacing depends on it.

    Raises:
        UserError: If it cannot be read.
    """
    if is_foreign(path):
        if not isinstance(weights, str):
            raise UserError(
                f"ema = {weights}: {path} is a model of another library, and holds no snapshots of averages"
            )
        imported = read_foreign(Source(path, allow_pickle, steps=steps))
        if steps is not None and not imported.by_steps:
            tables = imported.recipe
            imported = replace(imported, recipe={**tables, "sample": {**tables.get("sample", {}), "steps": steps}})
        return imported.pipeline(device, weights)
    return Pipeline.load(path, weights, device)


def is_foreign(path: Path) -> bool:
    """Return whether a path is a model of another library."""
    return any(importer.recognizes(Source(path)) for importer in importers())


def find(formats: Iterable[Format], name: str) -> Format:
    """Return the format of a name.

    Raises:
        UserError: If there is none; names the nearest.
    """
    known = {format.name: format for format in formats}
    if name not in known:
        raise UserError(f"no format is called '{name}'.{did_you_mean(name, known)} Known: {', '.join(known)}")
    return known[name]
