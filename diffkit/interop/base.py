"""What it means to import a model of another library, and to export one.

An importer turns a config and tensors of another library into an `Imported`: a recipe, and weights by diffkit's names.
It is exact or it raises: what cannot be expressed is named with its value, and never approximated. Nothing that could
run code is read: pickled files only through ``torch.load(weights_only=True)``, and only where the user allowed that.
"""

from __future__ import annotations

import functools
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from diffkit.data.base import DataInfo
from diffkit.errors import CheckpointError, UserError
from diffkit.pipeline import Pipeline, build_network
from diffkit.recipe.load import validate
from diffkit.recipe.tables import Recipe
from diffkit.recipe.write import to_toml
from diffkit.storage.checkpoint import EMA, MODEL, make_header
from diffkit.storage.files import new_folder, write_tensors
from diffkit.storage.fit import build_with
from diffkit.storage.runs import RECIPE

ALLOW_PICKLE = "--allow-pickled-weights"
"""The option of the command line that lets pickled weights be read."""


@dataclass(frozen=True)
class Source:
    """What a user asks to import.

    Attributes:
        path: The file or folder.
        allow_pickle: Whether pickled files may be read, by ``torch.load(weights_only=True)``.
        settings: What the source itself does not say, such as the flags that a network was trained with.
        steps: The number of sampling steps that is wanted, for libraries whose spacing depends on it; None for theirs.
    """

    path: Path
    allow_pickle: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None

    def unpickled(self, file: Path | None = None) -> Any:
        """Read a file of torch's format, which is pickled: tensors and plain values only.

        Args:
            file: The file; the source itself by default.

        Raises:
            UserError: If the user has not allowed it.
            CheckpointError: If it is missing, damaged, or holds anything but tensors and plain values.
        """
        file = self.path if file is None else file
        if not self.allow_pickle:
            raise UserError(
                f"{file}: its weights are pickled, a format that can carry code. {ALLOW_PICKLE} reads it without "
                "running any (torch.load with weights_only=True); safetensors need no such option"
            )
        try:
            return _unpickled(file, file.stat().st_mtime_ns)
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from None


@functools.lru_cache(maxsize=1)
def _unpickled(file: Path, written: int) -> Any:
    """Read a file once, as long as it is the same: who recognizes it and who reads it both want to see it."""
    try:
        size = file.stat().st_size
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if sum(member.file_size for member in archive.infolist()) > MOST_GROWTH * size:
                    raise ValueError(f"its parts are more than {MOST_GROWTH} times longer than the file")
        content = torch.load(file, map_location="cpu", weights_only=True)
        _check_content(content, MOST_GROWTH * size + SLACK)
        return content
    except OSError:
        raise
    except Exception as error:  # torch's reader raises anything at all on damaged files
        first = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{file}: not a file of tensors and plain values ({first})") from None


MOST_GROWTH = 2
"""What a file holds is at most so many times longer: torch doesn't compress, but tensors may share numbers."""

SLACK = 2**20
"""Bytes that small tensors of small files may take besides."""

MOST_VALUES = 10**6
"""No file holds more tensors and other values; a value that is held in two places counts twice."""

DEEPEST = 16
"""Tables in files are nested no deeper."""


def _check_content(content: Any, largest: int) -> None:
    """Check that unpickled values are few, plain, and tensors no larger than the file that they came from.

    Raises:
        ValueError: If they aren't: a few bytes of a pickle can stand for tables of tables, or for a tensor that shows
            one number a million times.
    """
    level, values, size = [content], 0, 0
    for _ in range(DEEPEST):
        below: list[Any] = []
        for value in level:
            if isinstance(value, Tensor):
                if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
                    raise ValueError("a tensor that is not a plain one")
                size += value.numel() * value.element_size()
            elif isinstance(value, dict):
                below += [*value, *value.values()]
            elif isinstance(value, list | tuple | set):
                below += value
            elif not isinstance(value, PLAIN) or (type(value) is int and value.bit_length() > 64):
                raise ValueError(f"a value of the type {type(value).__name__}, or one too large")
            if values + len(below) > MOST_VALUES:
                raise ValueError(f"more than {MOST_VALUES} values")
        values += len(below)
        level = below
        if size > largest:
            raise ValueError(f"tensors of {size} bytes in a file of less")
        if not level:
            return
    raise ValueError(f"tables nested deeper than {DEEPEST}")


PLAIN = (bool, int, float, str, bytes, torch.dtype, torch.Size, type(None))
"""What a file may hold besides tensors and tables."""


@dataclass(frozen=True)
class Imported:
    """A model of another library, in terms of diffkit.

    Attributes:
        recipe: The recipe's tables, as TOML would give them.
        data: What the model knows of its images.
        tensors: The weights to sample with, by diffkit's names.
        differences: What means something else there, and how that was resolved; a sentence each.
        raw: The weights of the last training step, where the source has both these and an average.
        step: Number of optimizer steps taken, as far as it is known.
        measure: Returns the largest difference between the outputs of diffkit's network and the library's own, for
            the same random inputs; None where the library is not installed.
        home: The folder of the model: files outside of it that the recipe names are not opened.
        by_steps: Whether the sampling is that library's of the number of steps that was asked for.
    """

    recipe: dict[str, Any]
    data: DataInfo
    tensors: dict[str, Tensor]
    differences: tuple[str, ...] = ()
    raw: dict[str, Tensor] | None = None
    step: int = 0
    measure: Callable[[nn.Module], float] | None = None
    by_steps: bool = False
    home: Path | None = None

    def validated(self) -> Recipe:
        """Return the checked recipe.

        Raises:
            RecipeError: If the parts don't fit together.
        """
        return validate(self.recipe, f"the recipe of '{self.recipe.get('name', '')}'")

    def network(self, tensors: Mapping[str, Tensor] | None = None) -> nn.Module:
        """Build the network, with the imported weights.

        Args:
            tensors: The weights; those to sample with by default.

        Raises:
            CheckpointError: If the weights don't fit the recipe.
        """
        recipe = self.validated()
        chosen = self.tensors if tensors is None else tensors
        return build_with(chosen, lambda where: build_network(recipe, self.data, where), "cpu", recipe.name)

    def pipeline(self, device: torch.device | str = "cpu", weights: Literal["ema", "raw"] = "ema") -> Pipeline:
        """Return the model, ready to sample from: with the weights for that, or those of the last training step."""
        network = self.network(self.raw if weights == "raw" else None)
        return Pipeline(self.validated(), self.data, network.to(device), device, weights, home=self.home)

    def write(self, folder: Path) -> list[Path]:
        """Write a folder that `diffkit sample` takes: the recipe, and weights with it in their header.

        Returns:
            The files.

        Raises:
            UserError: If the folder is there already.
        """
        recipe = self.validated()
        self.network()
        if folder.exists():
            raise UserError(f"{folder}: exists already: name a new folder")
        header = make_header(recipe, self.data, {}, self.step)
        weights = {EMA: self.tensors, MODEL: self.tensors if self.raw is None else self.raw}
        folder.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(folder) as temporary:
            (temporary / RECIPE).write_text(to_toml(recipe))
            for name, tensors in weights.items():
                write_tensors(tensors, temporary / name, header)
        return [folder / name for name in (RECIPE, *weights)]


class Importer(ABC):
    """Reads the models of one library."""

    name: ClassVar[str]
    """What `--format` calls it."""
    takes: ClassVar[str]
    """What it reads, in a few words."""

    @abstractmethod
    def recognizes(self, source: Source) -> bool:
        """Return whether a source looks like this library's, by names and headers, without reading weights."""

    @abstractmethod
    def read(self, source: Source) -> Imported:
        """Read a model.

        Raises:
            UserError: If something cannot be read, is not known, or cannot be expressed exactly: names it.
        """


class Exporter(ABC):
    """Writes models in one format."""

    name: ClassVar[str]
    """What `--format` calls it."""

    @abstractmethod
    def write(self, pipeline: Pipeline, folder: Path) -> list[Path]:
        """Write a model into a new folder, whole or not at all, and return the files.

        Raises:
            UserError: If something cannot be expressed exactly: names it.
        """
