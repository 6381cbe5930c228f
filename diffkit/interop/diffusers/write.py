"""Writes a pipeline folder of diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from diffkit.errors import UserError
from diffkit.interop.base import Exporter
from diffkit.interop.diffusers.export_config import configs_of
from diffkit.interop.diffusers.folder import INDEX, SAFE, SCHEDULER, SCHEDULER_CONFIG, UNET, UNET_CONFIG
from diffkit.interop.diffusers.how_to_sample import README, how_to_sample
from diffkit.interop.diffusers.names import to_theirs
from diffkit.interop.diffusers.note import write_note
from diffkit.interop.diffusers.unet_config import UNetConfig
from diffkit.pipeline import Pipeline
from diffkit.storage.files import new_folder, write_tensors

_VERSION = "0.35.0"
"""The oldest version that the folders are checked with."""


_NO_PIPELINE = "DiffusionPipeline"
"""What the index names where no pipeline samples rightly: their base of all, which cannot be loaded itself."""


class DiffusersExporter(Exporter):
    """Writes pipelines that diffusers loads; where it has none for the scheduler, a text that says how to sample."""

    name: ClassVar[str] = "diffusers"

    def write(self, pipeline: Pipeline, folder: Path) -> list[Path]:
        """Write a pipeline folder.

        Raises:
            UserError: If the folder is there already.
            RecipeError: With what diffusers cannot express.
        """
        configs = configs_of(pipeline.recipe, pipeline.data)
        scheduler = configs.scheduler
        tensors = to_theirs({name: t.cpu() for name, t in pipeline.network.state_dict().items()}, configs.unet)
        texts = write_note(pipeline.recipe, pipeline.data)
        if folder.exists():
            raise UserError(f"{folder}: exists already: name a new folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        index = {UNET: ["diffusers", "UNet2DModel"], SCHEDULER: ["diffusers", scheduler.class_name]}
        with new_folder(folder) as temporary:
            (temporary / UNET).mkdir()
            (temporary / SCHEDULER).mkdir()
            _write_json(temporary / INDEX, configs.pipeline or _NO_PIPELINE, index)
            _write_json(temporary / UNET / UNET_CONFIG, "UNet2DModel", _network(configs.unet))
            settings = scheduler.model_dump(mode="json", exclude_none=True)  # their own none may be another value
            _write_json(temporary / SCHEDULER / SCHEDULER_CONFIG, scheduler.class_name, settings)
            write_tensors(tensors, temporary / UNET / SAFE, texts)
            if configs.pipeline is None:
                (temporary / README).write_text(how_to_sample(pipeline, configs))
        names = [INDEX, f"{UNET}/{UNET_CONFIG}", f"{UNET}/{SAFE}", f"{SCHEDULER}/{SCHEDULER_CONFIG}"]
        return [folder / name for name in [*names, *([README] if configs.pipeline is None else [])]]


def _network(config: UNetConfig) -> dict[str, Any]:
    settings: dict[str, Any] = config.model_dump(mode="json")
    size = settings["sample_size"]
    # some pipelines take one side only
    return {**settings, "sample_size": size[0] if size[0] == size[1] else size}


def _write_json(file: Path, name: str, content: dict[str, Any]) -> None:
    file.write_text(json.dumps({"_class_name": name, "_diffusers_version": _VERSION, **content}, indent=2) + "\n")
