"""Writes a pipeline folder of diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch

from diffkit.errors import UserError
from diffkit.interop.base import Exporter
from diffkit.interop.diffusers.export_config import configs_of
from diffkit.interop.diffusers.folder import INDEX, SAFE, SCHEDULER, SCHEDULER_CONFIG, UNET, UNET_CONFIG
from diffkit.interop.diffusers.names import to_theirs
from diffkit.interop.diffusers.note import write_note
from diffkit.pipeline import Pipeline
from diffkit.storage.files import new_folder

_VERSION = "0.35.0"
"""The oldest version that the folders are checked with."""


class DiffusersExporter(Exporter):
    """Writes pipelines that diffusers' DDPMPipeline or DDIMPipeline loads."""

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
            _write_json(temporary / INDEX, configs.pipeline, index)
            _write_json(temporary / UNET / UNET_CONFIG, "UNet2DModel", configs.unet.model_dump(mode="json"))
            settings = scheduler.model_dump(mode="json")
            _write_json(temporary / SCHEDULER / SCHEDULER_CONFIG, scheduler.class_name, settings)
            contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
            safetensors.torch.save_file(contiguous, temporary / UNET / SAFE, texts)
        names = (INDEX, f"{UNET}/{UNET_CONFIG}", f"{UNET}/{SAFE}", f"{SCHEDULER}/{SCHEDULER_CONFIG}")
        return [folder / name for name in names]


def _write_json(file: Path, name: str, content: dict[str, Any]) -> None:
    file.write_text(json.dumps({"_class_name": name, "_diffusers_version": _VERSION, **content}, indent=2) + "\n")
