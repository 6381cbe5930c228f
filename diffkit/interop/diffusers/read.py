"""Reads a pipeline folder of diffusers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffkit.data.base import DataInfo
from diffkit.errors import CheckpointError, Problem, RecipeError, UserError, did_you_mean
from diffkit.interop.base import Imported, Importer, Source
from diffkit.interop.diffusers.folder import (
    INDEX,
    SCHEDULER,
    SCHEDULER_CONFIG,
    UNET,
    UNET_CONFIG,
    read_json,
    read_tensors,
)
from diffkit.interop.diffusers.names import to_ours
from diffkit.interop.diffusers.network import network_of
from diffkit.interop.diffusers.note import read_note
from diffkit.interop.diffusers.scheduler import sampling_of
from diffkit.interop.diffusers.scheduler_config import DDIM, DDPM, LCM, TCD, SchedulerConfig, read_scheduler
from diffkit.interop.diffusers.unet_config import UNetConfig

_STEPS, _OF_DDPM, _OF_DISTILLED = 50, 1000, 4
"""How many steps pipelines take unless they are told: most, one of ancestral sampling, those of distilled models."""

_SETTINGS = ("sample_size", "num_class_embeds", "steps")
"""What a user may say of a source."""
_OF_UNET = ("sample_size", "num_class_embeds")
"""What of it the network's config may leave out."""


class DiffusersImporter(Importer):
    """Reads pipelines of a UNet2DModel and a scheduler."""

    name: ClassVar[str] = "diffusers"
    takes: ClassVar[str] = f"a pipeline folder with {INDEX}, {UNET}/ and {SCHEDULER}/"

    def recognizes(self, source: Source) -> bool:
        """Return whether a folder has an index of a pipeline."""
        return (source.path / INDEX).is_file()

    def read(self, source: Source) -> Imported:
        """Read a pipeline.

        Raises:
            UserError: If something is missing or damaged, unknown, or cannot be expressed exactly.
        """
        if unknown := sorted(source.settings.keys() - set(_SETTINGS)):
            hint = f"{did_you_mean(unknown[0], _SETTINGS)} Known: {', '.join(_SETTINGS)}"
            raise UserError(f"{unknown[0]}: nothing that can be said of a pipeline.{hint}")
        pipeline, scheduler_name = self._components(source.path)
        unet, unet_file = source.path / UNET, source.path / UNET / UNET_CONFIG
        content = read_json(unet_file)
        content |= {name: source.settings[name] for name in _OF_UNET if name in source.settings}
        config = UNetConfig.read(content, unet_file)
        network = network_of(config, unet_file)

        scheduler_file = source.path / SCHEDULER / SCHEDULER_CONFIG
        scheduler, ignored = read_scheduler(read_json(scheduler_file), scheduler_name, scheduler_file)
        sampling = sampling_of(
            scheduler,
            self._steps(source, pipeline, scheduler),
            scheduler_file,
            says_variance=network.says_variance,
        )
        raw, texts = read_tensors(unet, source)
        tensors = to_ours(raw, config, unet)
        differences = [*network.differences, *sampling.differences, *ignored, *_of_types(raw)]
        recipe = _recipe(
            source.path, network.model, network.data, sampling.process, sampling.objective, sampling.sample
        )
        data = network.data
        if (note := read_note(texts, config, scheduler, recipe)) is None:
            differences += network.filled
        else:
            recipe, data, tensors = note.recipe, note.data, note.tensors(tensors)
        return Imported(
            recipe=recipe,
            data=data,
            tensors=tensors,
            differences=tuple(differences),
            measure=_measure(unet, config) if _is_installed() else None,
            by_steps=note is None,
        )

    def _components(self, folder: Path) -> tuple[str, str]:
        """Return the names of the pipeline and of its scheduler.

        Raises:
            CheckpointError: If there are others than a network and a scheduler.
        """
        file = folder / INDEX
        index = read_json(file)
        parts = {name: part for name, part in index.items() if not name.startswith("_") and isinstance(part, list)}
        for name, part in parts.items():
            if name not in (UNET, SCHEDULER) and part != [None, None]:
                raise CheckpointError(
                    f"{file}: '{name}' = {json.dumps(part)}: only pipelines of a unet and a scheduler can be read"
                )
        network, scheduler = (self._class(parts, name, file) for name in (UNET, SCHEDULER))
        if network != "UNet2DModel":
            raise CheckpointError(f"{file}: 'unet' is a {network}: only a UNet2DModel can be read")
        pipeline = str(index.get("_class_name", ""))
        # which turns every scheduler into this one
        return pipeline, "DDIMScheduler" if pipeline == "DDIMPipeline" else scheduler

    def _class(self, parts: dict[str, Any], name: str, file: Path) -> str:
        part = parts.get(name)
        if not isinstance(part, list) or len(part) != 2 or not isinstance(part[1], str):
            raise CheckpointError(f"{file}: names no class for '{name}'")
        return part[1]

    def _steps(self, source: Source, pipeline: str, scheduler: SchedulerConfig) -> int:
        """Return the number of steps: the user's, or what the pipeline takes by default, or as many as there are."""
        by_default = _STEPS
        if isinstance(scheduler, LCM | TCD):
            by_default = _OF_DISTILLED
        elif pipeline == "DDPMPipeline" and isinstance(scheduler, DDPM | DDIM):
            by_default = _OF_DDPM
        by_default = min(by_default, scheduler.num_train_timesteps)
        steps = source.steps or source.settings.get("steps", by_default)
        if type(steps) is not int or steps < 1:
            raise RecipeError(source.path, [Problem("steps", "should be a whole number, at least 1", steps)])
        return steps


def _recipe(
    folder: Path,
    model: dict[str, Any],
    data: DataInfo,
    process: dict[str, Any],
    objective: dict[str, Any],
    sample: dict[str, Any],
) -> dict[str, Any]:
    """Put the tables together. What a pipeline doesn't say is training, of which it needs the length."""
    return {
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._") or "imported",
        "data": {
            "kind": "unspecified",
            "channels": data.channels,
            "height": data.height,
            "width": data.width,
            "classes": list(data.classes),
            "vector": data.vector,
        },
        "process": process,
        "objective": {**objective, "label_dropout": 0.0},
        "model": model,
        "train": {"steps": 1},
        "sample": sample,
    }


def _of_types(tensors: dict[str, Tensor]) -> list[str]:
    others = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()} - {"float32"})
    return [f"weights: {', '.join(others)} there, float32 here, of the same values"] if others else []


def _is_installed() -> bool:
    try:
        import diffusers  # noqa: F401
    except ImportError:
        return False
    return True


def _measure(folder: Path, config: UNetConfig) -> Callable[[nn.Module], float]:
    """Return what compares a network of diffkit's to that of a folder, read by diffusers itself."""

    def measure(network: nn.Module) -> float:
        from diffusers import UNet2DModel

        theirs: Any = UNet2DModel
        theirs = theirs.from_pretrained(
            folder, local_files_only=True, torch_dtype=torch.float32, low_cpu_mem_usage=False
        ).eval()
        assert config.sample_size is not None
        generator = torch.Generator().manual_seed(0)
        last = (config.num_train_timesteps or 1000) - 1
        first = 1 if config.time_embedding_type == "fourier" else 0
        time = torch.tensor([first, last // 2, last])
        x = torch.randn(len(time), config.in_channels, *config.sample_size, generator=generator)
        label = torch.arange(len(time)) % config.classes if config.classes else None
        vector = None
        if config.class_embed_type == "identity":
            vector = torch.randn(len(time), config.embedding_size, generator=generator)
        with torch.no_grad():
            expected = theirs(x, time, class_labels=label if vector is None else vector).sample
            found = network.eval()(x, time.float(), label, vector)
        return float((found - expected).abs().max())

    return measure
