"""The network alone, as one file that runs without diffkit: torch.export's and ONNX's.

What is around the network (process, prediction, sampler) is no part of these formats: the recipe lies beside.
Batches of any size can be run; the images' sides are fixed.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffkit.errors import UserError
from diffkit.interop.base import Exporter
from diffkit.pipeline import Pipeline, ports_of
from diffkit.recipe.write import to_toml
from diffkit.storage.files import new_folder
from diffkit.storage.runs import RECIPE


class TorchExport(Exporter):
    """``network.pt2``, for torch.export.load: no code of diffkit is needed to run or compile it."""

    name: ClassVar[str] = "torch-export"

    def write(self, pipeline: Pipeline, folder: Path) -> list[Path]:
        """Write ``network.pt2`` and the recipe into a new folder, and return both."""
        with _written(pipeline, folder) as temporary, _quietly():
            inputs = _inputs(pipeline)
            program = torch.export.export(
                pipeline.network, (), kwargs=inputs, dynamic_shapes=_any_batch(inputs), strict=False
            )
            torch.export.save(program, temporary / "network.pt2")
        return [folder / "network.pt2", folder / RECIPE]


class Onnx(Exporter):
    """``network.onnx``, for ONNX Runtime and others. Needs ``pip install 'diffkit[onnx]'``."""

    name: ClassVar[str] = "onnx"

    def write(self, pipeline: Pipeline, folder: Path) -> list[Path]:
        """Write ``network.onnx`` and the recipe into a new folder, and return both.

        Raises:
            UserError: If ONNX is not installed.
        """
        try:
            import onnxscript  # noqa: F401
        except ImportError:
            raise UserError("the format 'onnx' needs further packages: pip install 'diffkit[onnx]'") from None
        with _written(pipeline, folder) as temporary, _quietly():
            inputs = _inputs(pipeline)
            program = torch.onnx.export(
                pipeline.network,
                kwargs=inputs,
                dynamo=True,
                dynamic_shapes=_any_batch(inputs),
                input_names=list(inputs),
                output_names=["output"],
            )
            assert program is not None
            program.save(temporary / "network.onnx")
        return [folder / "network.onnx", folder / RECIPE]


def _inputs(pipeline: Pipeline) -> dict[str, Tensor]:
    """Return inputs of the network by name, for two images."""
    data, ports, device = pipeline.data, ports_of(pipeline.recipe, pipeline.data), pipeline.device
    inputs = {
        "x": torch.zeros(2, ports.in_channels, data.height, data.width, device=device),
        "time": torch.zeros(2, device=device),
    }
    if pipeline.recipe.model.class_conditional:
        inputs["label"] = torch.zeros(2, dtype=torch.int64, device=device)
    if ports.vector:
        inputs["vector"] = torch.zeros(2, ports.vector, device=device)
    return inputs


def _any_batch(inputs: dict[str, Tensor]) -> dict[str, Any]:
    batch = torch.export.Dim("batch", min=1)
    return {name: {0: batch} for name in inputs}


@contextlib.contextmanager
def _written(pipeline: Pipeline, folder: Path) -> Iterator[Path]:
    """Make a new folder, with the recipe in it, that appears whole or not at all."""
    if folder.exists():
        raise UserError(f"{folder}: exists already: name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as temporary:
        (temporary / RECIPE).write_text(to_toml(pipeline.recipe))
        yield temporary


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep torch's own report of each pass, and what it deprecates in itself, from the user's screen."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        yield
