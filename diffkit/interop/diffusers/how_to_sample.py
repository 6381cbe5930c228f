"""A text beside an exported model: how to sample from it where diffusers has no pipeline that does."""

from __future__ import annotations

from diffkit.interop.diffusers.export_config import Configs
from diffkit.interop.diffusers.folder import SCHEDULER, UNET
from diffkit.interop.diffusers.scheduler_config import FlowMatchEuler
from diffkit.pipeline import Pipeline

README = "README.md"

_TEXT = """# {name}

A `UNet2DModel` and a `{scheduler}`, written by diffkit. No pipeline of diffusers samples with this scheduler and such a
network, so there is none to load. This does:

```python
import torch
from diffusers import {scheduler}, UNet2DModel

folder = "."  # this one
unet = UNet2DModel.from_pretrained(folder, subfolder="{unet_folder}").eval()
scheduler = {scheduler}.from_pretrained(folder, subfolder="{scheduler_folder}")
scheduler.set_timesteps({steps})

x = torch.randn(4, {channels}, {height}, {width}){start}
with torch.no_grad():
    for t in scheduler.timesteps:
        output = unet({shown}, t{labels}).sample
        x = scheduler.step(output, t, x).prev_sample
images = (x / 2 + 0.5).clamp(0, 1)
```
"""


def how_to_sample(pipeline: Pipeline, configs: Configs) -> str:
    """Return the text for a model and its scheduler."""
    scheduler = configs.scheduler
    plain = isinstance(scheduler, FlowMatchEuler)  # which scales nothing
    channels, height, width = pipeline.data.shape
    return _TEXT.format(
        name=pipeline.recipe.name,
        scheduler=scheduler.class_name,
        unet_folder=UNET,
        scheduler_folder=SCHEDULER,
        steps=pipeline.recipe.sample.steps,
        channels=channels,
        height=height,
        width=width,
        start="" if plain else " * scheduler.init_noise_sigma",
        shown="x" if plain else "scheduler.scale_model_input(x, t)",
        labels=_labels(pipeline, configs),
    )


def _labels(pipeline: Pipeline, configs: Configs) -> str:
    if pipeline.data.vector:
        return f", class_labels=torch.zeros(4, {pipeline.data.vector})"
    if configs.unet.num_class_embeds is not None or configs.unet.class_embed_type is not None:
        return ", class_labels=torch.zeros(4, dtype=torch.long)"
    return ""
